"""Results as tables, pictures, a page, and in README.md; all computed from records."""
