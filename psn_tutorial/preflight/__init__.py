"""What this machine can run, and what would go wrong in a run."""
