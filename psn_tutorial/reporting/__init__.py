"""Results as tables, pictures, a page, and in the README: all of it computed from records."""
