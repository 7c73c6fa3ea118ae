"""Alignment fits: how nearly the agents' utilities, weighted, add up to the user's, and what proves that."""
