"""Batches of games of which some are checked in one way and the others in another."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Bool

from emalign_jax.exact.checks.batch import AbstractChecks, Examinations


def _by_part(method: str) -> Any:
    """A method that asks both parts, and returns their answers in the order of `at`."""

    def ask(self: Divided, at, *arguments, **words):
        mine = self.is_first[at]
        if mine.all() or not mine.any():
            return getattr(self.parts[0 if mine.all() else 1], method)(at, *arguments, **words)
        sides = [np.flatnonzero(mine), np.flatnonzero(~mine)]
        answers = [
            getattr(part, method)(at[some], *(_rows(x, some) for x in arguments), **words)
            for part, some in zip(self.parts, sides, strict=True)
        ]
        back = np.argsort(np.concatenate(sides))
        return jax.tree.map(lambda *both: np.concatenate(both)[back], *answers)

    return ask


class Divided(AbstractChecks):
    """Some games checked in one way and the others in another."""

    examine, after_move, refine, best_responses = map(_by_part, ("examine", "after_move", "refine", "best_responses"))
    monopolists, facts, form_of, floors = map(_by_part, ("monopolists", "facts", "form_of", "floors"))
    can_outbid, standing, at_least = map(_by_part, ("can_outbid", "standing", "at_least"))
    just_behind, worth, limits = map(_by_part, ("just_behind", "worth", "limits"))

    def __init__(self, first: AbstractChecks, second: AbstractChecks, is_first: Bool[np.ndarray, "N"]):
        self.parts, self.is_first = (first, second), is_first
        self.searched = any(part.searched for part in self.parts)
        self.batched = all(part.batched for part in self.parts)
        self.user, self.K, self.at_once = first.user, first.K, first.at_once

    @property
    def fallback(self):
        return np.where(self.is_first, self.parts[0].fallback, self.parts[1].fallback)

    def monopoly(self, at):
        found = np.empty((2, len(at), self.K))
        for part, some in zip(self.parts, (self.is_first[at], ~self.is_first[at]), strict=True):
            found[:, some] = part.monopoly(at[some])
        return found

    def release(self, at):
        self.parts[0].release(at[self.is_first[at]])
        self.parts[1].release(at[~self.is_first[at]])


def _rows(x, some):
    """The rows of arrays and `Examinations`; other arguments are for all games."""
    return x.rows(some) if isinstance(x, Examinations) else x[some] if isinstance(x, np.ndarray) else x
