"""Batches of games of which some are checked in one way and the others in another."""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Bool

from emalign_jax.exact.checks.batch import AbstractChecks, Examinations, ignore


class Divided(AbstractChecks):
    """Some games checked in one way and the others in another."""

    def __init__(self, first: AbstractChecks, second: AbstractChecks, is_first: Bool[np.ndarray, "N"]):
        self.parts, self.is_first = (first, second), is_first
        self.searched = any(part.searched for part in self.parts)
        self.batched = all(part.batched for part in self.parts)
        self.user, self.K, self.at_once = first.user, first.K, first.at_once

    @property
    def fallback(self):
        return np.where(self.is_first, self.parts[0].fallback, self.parts[1].fallback)

    def _each(self, method: str, at, *arguments, **words):
        """The answers of both parts, in the order of `at`. Arrays and `Examinations` among `arguments` are divided."""
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

    def examine(self, at, schemes, bracket=None, tolerance=None, tell=ignore):
        return self._each("examine", at, schemes, bracket=bracket, tolerance=tolerance, tell=tell)

    def after_move(self, at, schemes, before, agents, tolerance=None):
        return self._each("after_move", at, schemes, before, agents, tolerance=tolerance)

    def refine(self, at, schemes, examined, brackets, asked):
        return self._each("refine", at, schemes, examined, brackets, asked=asked)

    def best_responses(self, at, schemes, examined, agents):
        return self._each("best_responses", at, schemes, examined, agents)

    def monopolists(self, at, messages):
        return self._each("monopolists", at, messages=messages)

    def monopoly(self, at):
        found = np.empty((2, len(at), self.K))
        for part, some in zip(self.parts, (self.is_first[at], ~self.is_first[at]), strict=True):
            found[:, some] = part.monopoly(at[some])
        return found

    def facts(self, at):
        return self._each("facts", at)

    def form_of(self, at):
        return self._each("form_of", at)

    def floors(self, at, schemes, examined):
        return self._each("floors", at, schemes, examined)

    def release(self, at):
        self.parts[0].release(at[self.is_first[at]])
        self.parts[1].release(at[~self.is_first[at]])

    def can_outbid(self, at):
        return self._each("can_outbid", at)

    def standing(self, at, schemes, examined):
        return self._each("standing", at, schemes, examined)

    def at_least(self, at, agents, values, messages):
        return self._each("at_least", at, agents, values, messages=messages)

    def just_behind(self, at, schemes, selected, rivals):
        return self._each("just_behind", at, schemes, selected, rivals)

    def worth(self, at):
        return self._each("worth", at)

    def limits(self, at, messages):
        return self._each("limits", at, messages=messages)


def _rows(x, some):
    return x.rows(some) if isinstance(x, Examinations) else x[some]
