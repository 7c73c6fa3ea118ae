"""Search for profitable deviations by gradient ascent, for many games and agents at once."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from emalign_jax.play.ascent import ascend

# The number of ascents whose ends are returned, besides the ascent from the present rule.
KEPT = 2
# Relative to the largest probability in a row: the largest probability that the lower bound of logits leaves over.
SMALL = 1e-3


class Ascent(NamedTuple):
    """One agent's ascents against the others' schemes. The first of `starts` is the present rule."""

    setting: Any  # Has attributes game, protocol and user, in standard units.
    schemes: Float[np.ndarray, "K rows M"]
    agent: int
    starts: list[Float[np.ndarray, "rows M"]]


def search(ascents: list[Ascent], cells: int) -> list[list[Float[np.ndarray, "rows M"]]]:
    """For each of `ascents`, all of one size: the rules at the end of the ascent from the present rule and of the
    `KEPT` best others, each also without its small probabilities.

    cells: numbers in one game's largest tensor.
    """
    counts = [len(one.starts) for one in ascents]
    owner = np.repeat(np.arange(len(ascents)), counts)
    game, protocol, user = (
        _stack([getattr(ascents[n].setting, name) for n in owner]) for name in ("game", "protocol", "user")
    )
    profiles = np.array([ascents[n].schemes for n in owner])
    agents = np.array([ascents[n].agent for n in owner])
    profiles[np.arange(len(owner)), agents] = np.concatenate([one.starts for one in ascents])
    ends, payoffs = ascend(game, profiles, agents, protocol, user, cells)
    payoffs = np.where(np.isfinite(payoffs), payoffs, -np.inf)
    kept = []
    for n in range(len(ascents)):
        own, paid = ends[owner == n], payoffs[owner == n]
        best = [0, *(1 + np.argsort(-paid[1:], kind="stable")[:KEPT])]
        kept.append([rule for k in best for rule in (own[k], sharpened(own[k]))])
    return kept


def sharpened(rule: Float[np.ndarray, "rows M"]) -> Float[np.ndarray, "rows M"]:
    """Without the small probabilities that the lower bound of logits leaves over."""
    kept = np.where(rule < SMALL * rule.max(-1, keepdims=True), 0, rule)
    return kept / kept.sum(-1, keepdims=True)


def _stack(items: list):
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *items)
