"""Experiments: several arms of one task, trained and compared."""
