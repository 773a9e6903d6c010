"""Several arms of one task, trained and compared."""
