"""Proof files: claims about a game with multipliers that prove them, and a verifier that needs nothing else."""
