"""Run folders on the disk: settings, provenance, one line per step, checkpoints. Knows no model."""
