"""Fits by `em.align`, and what given weights are worth on training and on test items.

Tables are [T, A, Y] (targets) and [K, A, Y] (agents that the targets share).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from emalign_jax.exact.alignment.fits import align
from emalign_jax.exact.alignment.residuals import best_offset, size_of

CHUNK = 4_000_000  # cells in memory at once


class Rule(NamedTuple):
    """The offset and the norm of errors; l2 errors are RMS, per cell."""

    offset: str
    norm: str

    def error(self, misfit: Float[np.ndarray, "*any A Y"]) -> Float[np.ndarray, "*any"]:
        """Of what is left after the offset."""
        per_cell = np.sqrt(misfit.shape[-1] * misfit.shape[-2]) if self.norm == "l2" else 1.0
        return np.asarray(size_of(misfit, self.norm) / per_cell)

    def best_offset(self, misfit: Float[np.ndarray, "*any A Y"]) -> Float[np.ndarray, "*any 1 Y"]:
        return best_offset(misfit, **self._asdict())[..., None, :]

    def best_error(self, misfit: Float[np.ndarray, "*any A Y"]) -> Float[np.ndarray, "*any"]:
        return self.error(misfit - self.best_offset(misfit))


class Fitted(NamedTuple):
    """Weights, the error they attain, how far it may be from the least one (of the dual certificate), and whether the
    batched solver's answer was not proved and the fit done again."""

    weights: Float[np.ndarray, "T K"]
    error: Float[np.ndarray, "T"]
    gap: Float[np.ndarray, "T"]
    solved: Bool[np.ndarray, "T"]
    fallback: Bool[np.ndarray, "T"]


def reduce(user, agents, rule: Rule) -> tuple[np.ndarray, np.ndarray, Rule, float]:
    """The same fits on fewer cells: (user, agents, rule, scale), errors of the smaller tables times scale.

    l2: the offset is taken out, and an orthogonal change of coordinates leaves one for each agent and one for what
    lies outside their span. sup: as they are."""
    if rule.norm != "l2":
        return user, agents, rule, 1.0
    cells = user.shape[-1] * user.shape[-2]
    columns = (agents - rule.best_offset(agents)).reshape(len(agents), -1).T
    goals = (user - rule.best_offset(user)).reshape(len(user), -1).T
    basis, triangle = np.linalg.qr(columns)
    inside = basis.T @ goals
    outside = np.linalg.norm(goals - basis @ inside, axis=0)
    user = np.concatenate([inside, outside[None]]).T[:, None]
    agents = np.concatenate([triangle, np.zeros((1, len(agents)))]).T[:, None]
    return user, agents, Rule("none", "l2"), float(np.sqrt(user.shape[-1] / cells))


def fit(user, agents, weights: str, rule: Rule, progress=None) -> Fitted:
    """The best simplex or cone weights of each target."""
    user, agents, rule, scale = reduce(user, agents, rule)
    found = align(user, agents, weights=weights, **rule._asdict(), progress=progress)
    per_cell = scale / np.sqrt(user.shape[-1] * user.shape[-2]) if rule.norm == "l2" else 1.0
    return Fitted(found.weights, found.error * per_cell, found.gap * per_cell, found.solved, found.fallback)


def best_single(user, agents, rule: Rule) -> np.ndarray:
    """Weights [T, K] of 1 on the agent of least error."""
    chosen = np.zeros(len(user), int)
    step = max(1, CHUNK // agents.size)
    for t in range(0, len(user), step):
        chosen[t : t + step] = rule.best_error(agents - user[t : t + step, None]).argmin(1)
    return np.eye(len(agents))[chosen]


class Split(NamedTuple):
    """In-sample and held-out error of given weights."""

    in_sample: Float[np.ndarray, "T"]
    held_out: Float[np.ndarray, "T"]


def evaluate(weights, user, agents, test: Bool[np.ndarray, "Y"], rule: Rule) -> Split:
    """The offset is fitted on the training items, but for c(y), which changes nothing: there it is the best one of
    each test item, so that only differences between the answers to an item count."""
    misfit = np.einsum("tk,kay->tay", weights, agents) - user
    offset = rule.best_offset(misfit[..., ~test])
    held_out = misfit[..., test]
    again = rule.best_offset(held_out) if rule.offset == "per_state" else offset[..., :1]
    return Split(rule.error(misfit[..., ~test] - offset), rule.error(held_out - again))
