"""The accelerated part: gradient play over batches of games."""

from emalign_jax.play.gradient_play import GradientPlay, Played, play

__all__ = ["GradientPlay", "Played", "play"]
