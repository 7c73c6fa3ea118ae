"""Exact checks, which bound the deviation gains of profiles: one file for each protocol and kind of user."""
