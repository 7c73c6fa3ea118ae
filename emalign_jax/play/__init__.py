"""Search for equilibria in JAX: gradient play over batches of games, and smoothed equilibria with derivatives."""

from emalign_jax.play.differentiation import Implicit, Unrolled
from emalign_jax.play.gradient_play import GradientPlay, Played, play_games
from emalign_jax.play.smooth_play import SmoothPlay

__all__ = ["GradientPlay", "Implicit", "Played", "SmoothPlay", "Unrolled", "play_games"]
