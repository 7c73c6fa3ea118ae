"""Deviation gains: one file a (protocol, user)."""
