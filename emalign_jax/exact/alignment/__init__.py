"""Alignment fits: how nearly a weighted sum of the agents' utilities equals the user's, with proofs of optimality."""
