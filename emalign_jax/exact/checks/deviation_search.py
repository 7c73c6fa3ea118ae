"""The search of deviations where no exact method finds them: ascents of many games and agents at once, and what of them
is kept."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from emalign_jax.play.ascent import ascend

KEPT = 2  # of the openings' ascents, those that ended highest are evaluated, besides that from the present rule
SMALL = 1e-3  # of the largest probability in a row: what the floor of the logits may have left


class Ascent(NamedTuple):
    """One agent's ascents against the others' schemes, from `starts`, of which the first is the present rule."""

    setting: Any  # has game, protocol and user, in standard units
    schemes: Float[np.ndarray, "K rows M"]
    agent: int
    starts: list[Float[np.ndarray, "rows M"]]


def search(ascents: list[Ascent], cells: int) -> list[list[Float[np.ndarray, "rows M"]]]:
    """The rules that each of these, all of one size, ended with: of the present rule, and the highest of the others.

    cells: numbers in one game's largest tensor."""
    counts = [len(one.starts) for one in ascents]
    owner = np.repeat(np.arange(len(ascents)), counts)
    game, protocol, user = (
        _stack([getattr(ascents[n].setting, name) for n in owner]) for name in ("game", "protocol", "user")
    )
    profiles = np.array([ascents[n].schemes for n in owner])
    agents = np.array([ascents[n].agent for n in owner])
    profiles[np.arange(len(owner)), agents] = np.concatenate([one.starts for one in ascents])
    found = ascend(game, profiles, agents, protocol, user, cells)
    payoffs = np.where(np.isfinite(found.payoffs), found.payoffs, -np.inf)
    kept = []
    for n in range(len(ascents)):
        own, paid = found.schemes[owner == n], payoffs[owner == n]
        best = [0, *(1 + np.argsort(-paid[1:], kind="stable")[:KEPT])]
        kept.append([rule for k in best for rule in (own[k], sharpened(own[k]))])
    return kept


def sharpened(rule: Float[np.ndarray, "rows M"]) -> Float[np.ndarray, "rows M"]:
    """Without the small probabilities that the floor of the logits leaves."""
    kept = np.where(rule < SMALL * rule.max(-1, keepdims=True), 0, rule)
    return kept / kept.sum(-1, keepdims=True)


def _stack(items: list):
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *items)
