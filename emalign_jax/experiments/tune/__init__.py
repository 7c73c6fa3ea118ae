"""A tuning run on disk."""
