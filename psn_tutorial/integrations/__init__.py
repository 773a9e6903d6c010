"""PSN-GRPO inside other training libraries."""
