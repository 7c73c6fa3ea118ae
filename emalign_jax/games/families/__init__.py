"""Families of random games: one class a family."""

from emalign_jax.games.families.base import FAMILIES, AbstractFamily, all_knobs, knob
from emalign_jax.games.families.built_in import Goal, Hull, Noise, Opposed, SharedBias
from emalign_jax.games.families.continuous import Attributes, Quadratic, midpoints
from emalign_jax.games.families.drawing import any_game, check_arguments, random_games, require_room

__all__ = [
    "FAMILIES",
    "AbstractFamily",
    "Attributes",
    "Goal",
    "Hull",
    "Noise",
    "Opposed",
    "Quadratic",
    "SharedBias",
    "all_knobs",
    "any_game",
    "check_arguments",
    "knob",
    "midpoints",
    "random_games",
    "require_room",
]
