"""Batch jobs with files: search, sweep, hull, tune."""
