"""Alignment fits: how nearly a weighted sum of the agents' utilities equals the user's (section 7 of docs/model.md).

The sup-norm error is the eps of theorem 1 (section 6.1 of docs/model.md). Every answer has a dual vector, which proves
a lower bound of the error of any weights by weak duality; `gap` is the error less that bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Bool, Float

from emalign_jax.exact.alignment import sup_norm
from emalign_jax.exact.alignment.residuals import (
    Parts,
    Rule,
    admissible,
    bound,
    cone_interior,
    exactly_constant,
    parts_of,
    polished_dual,
    rounding_of,
    rule_of,
    scale_of,
    size_of,
    split,
    table_of,
    tables_of,
    unit_of,
)
from emalign_jax.exact.alignment.single_fit import L2, Sup
from emalign_jax.games.game import LARGEST_UTILITY
from emalign_jax.internal.processors import each
from emalign_jax.internal.validation import on_host
from emalign_jax.lp import least_squares
from emalign_jax.lp.choice import check_word, use_batched
from emalign_jax.result import Batched

# Gaps are relative to the error of the best single agent (simplex) or of zero weights (cone).
# The largest gap of an answer that counts as solved.
SOLVED = 1e-6
# The same where agents in use nearly cancel, so that rounding is larger.
SOLVED_DESPITE_ROUNDING = 1e-3
# A larger gap is tried to be reduced.
SHARP = 1e-10
# With so many targets compiling the least squares is worth while.
FEWEST = 64
# The number of targets whose least squares, and whose LPs, are solved at a time.
BLOCK = 512
LPS = 1024
# The number of targets whose tables stay in a core's cache.
PIECE = 128
# The number of targets between two calls of `progress`.
TARGETS_PER_REPORT = 32 * BLOCK


class Alignment(Batched):
    """The fits `sum_i weights_i U_i + offset ~ u`; float64, on the host, NaN where not `solved`.

    Attributes:
        weights: [..., K] w >= 0, of sum 1 (simplex) or any sum (cone).
        offset: [..., Y] c(y): zeros (none), one repeated number (constant) or one number for each state (per_state).
        error: [...] sup: the largest absolute residual, eps; l2: the residual's Frobenius norm. In the units of
            u, attained by these weights and this offset up to rounding.
        gap: [...] error - gap is a lower bound of the error of all admissible weights and offsets, proved from
            the residual and the given numbers with rounding included (on the cone, agents that are
            linearly dependent up to rounding count as dependent).
        solved: [...] False if an entry is not finite or too large, or the gap is too large.
        residual: [..., A, Y] sum_i w_i U_i + c - u.
        dual: [..., A, Y] the dual vector that proves the gap, see `dual_bound`.
        fallback: [...] whether the item was solved by itself because the batched solver's answer was not proved.

    Example:
        >>> game = em.catalog.biased_advisers()
        >>> fit = em.align(game.user_utility, game.agent_utilities, offset="constant")
        >>> fit.weights.round(3).tolist(), fit.predict(game.agent_utilities).round(3).tolist()  # u itself
        ([0.5, 0.5], [[1.0, 0.0], [0.0, 1.0]])

    Source: section 7 of docs/model.md.
    """

    weights: Float[np.ndarray, "*batch K"]
    offset: Float[np.ndarray, "*batch Y"]
    error: Float[np.ndarray, "*batch"]
    gap: Float[np.ndarray, "*batch"]
    solved: Bool[np.ndarray, "*batch"]
    residual: Float[np.ndarray, "*batch A Y"]
    dual: Float[np.ndarray, "*batch A Y"]
    fallback: Bool[np.ndarray, "*batch"]

    _code: ClassVar[str | None] = None
    _unit: ClassVar[str] = "target"

    def _headline(self) -> dict[str, Any]:
        alone = {} if self.batch_shape else {"weights": self.weights}
        return {"error": self.error, "share solved": self.solved} | alone

    @property
    def ok(self) -> Any:
        """[...] whether the fit was found and proved: `solved`."""
        return self.solved

    @property
    def rms(self) -> Float[np.ndarray, "*batch"]:
        """The Frobenius norm of the residual divided by sqrt(A Y), for either norm."""
        return np.asarray(size_of(self.residual, "l2") / np.sqrt(np.prod(self.residual.shape[-2:])))

    def predict(self, agent_utilities) -> Float[np.ndarray, "*batch A Z"]:
        """What the fit makes of other tables of the same agents: `sum_i w_i U_i + c`, [..., A, Z].

        Args:
            agent_utilities: [..., K, A, Z]; Z may differ from Y unless the offset depends on y.

        Raises:
            ValueError: for wrong shapes.
        """
        tables = table_of("agent_utilities", agent_utilities, "[..., K, A, Y]")
        K, Y = self.weights.shape[-1], self.offset.shape[-1]
        if tables.shape[-3] != K:
            raise ValueError(f"agent_utilities: K (axis -3) is {tables.shape[-3]}, but there are {K} weights")
        offset = self.offset
        if tables.shape[-1] != Y:
            if (self.solved & (offset != offset[..., :1]).any(-1)).any():
                raise ValueError(f"agent_utilities: Y (last axis) is {tables.shape[-1]}, but the offset has {Y} states")
            offset = offset[..., :1]
        return (self.weights[..., None, None] * tables).sum(-3) + offset[..., None, :]


def align(
    user_utility,
    agent_utilities,
    *,
    weights: str = "simplex",
    offset: str = "none",
    norm: str = "sup",
    lp: str = "auto",
    progress=None,
) -> Alignment:
    """The best fit of the user's utility by a weighted sum of the agents' utilities and an offset.

    A table of ratings (instances x annotators, the target a human) is the same problem with Y = instances and A = 1;
    "per_state" then has error 0. If several weights are optimal, the one returned may depend on the batch; its error
    does not. Targets that share their agents (agents without batch axes) share computations. An item with a NaN or an
    infinite entry, or whose program is not solved, affects only itself: NaN, and `solved` False.

    Args:
        user_utility: [..., A, Y].
        agent_utilities: [..., K, A, Y]; batch axes are broadcast.
        weights: "simplex" (w >= 0, sum 1) or "cone" (w >= 0).
        offset: "none", "constant" (one number) or "per_state" (c(y)).
        norm: "sup" (a linear program) or "l2" (non-negative least squares).
        lp: "batched": small LPs of the sup norm, and least squares of targets that share their agents, are solved
            together; items whose gap is above `SHARP` are solved again one by one. "highs": one by one. "auto":
            batched for many items.
        progress: called with the number of items done since the last call.

    Returns:
        An `Alignment`.

    Raises:
        ValueError: for wrong shapes and unknown words.

    Example:
        >>> game = em.catalog.prosecutor_against_defender()
        >>> fit = em.align(game.user_utility, game.agent_utilities)
        >>> round(float(fit.error), 6), fit.weights.round(3).tolist()
        (0.5, [0.5, 0.5])

    Source: section 7 of docs/model.md.
    """
    on_host(user_utility=user_utility, agent_utilities=agent_utilities, progress=progress)
    rule = rule_of(weights, offset, norm)
    user, agents = tables_of(user_utility, agent_utilities)
    batch = np.broadcast_shapes(user.shape[:-2], agents.shape[:-3])
    K, A, Y = agents.shape[-3:]
    targets = np.broadcast_to(user, (*batch, A, Y)).reshape(-1, A, Y)
    groups = agents.reshape(-1, K, A, Y)
    group = np.broadcast_to(np.arange(len(groups)).reshape(agents.shape[:-3]), batch).ravel()
    order = np.argsort(group, kind="stable")
    check_word(lp)
    N = len(targets)
    solved, fallback = np.zeros(N, bool), np.zeros(N, bool)
    shapes = ((K,), (Y,), (), (), (A, Y), (A, Y))
    empty = [np.empty((N, *s)) for s in shapes]
    out = Alignment(empty[0], empty[1], empty[2], empty[3], solved, empty[4], empty[5], fallback)

    def write(items, found: Alignment):
        for whole, new in zip(jax.tree.leaves(out), jax.tree.leaves(found), strict=True):
            whole[items] = new

    def report(count):
        if progress is not None and count:
            progress(int(count))

    with _quietly():
        if norm == "sup" and use_batched(lp, N, math.prod(sup_norm.shape(K, A, Y, rule))):
            for at in range(0, N, LPS):
                some = np.arange(at, min(at + LPS, N))
                write(some, _fit_sup(targets[some], groups[group[some]], rule))
                report(solved[some].sum())
        order = order[~solved[order]]
        for items in np.split(order, np.flatnonzero(np.diff(group[order])) + 1) if len(order) else []:
            shared = _Agents(groups[group[items[0]]], rule, alone=len(items) == 1)
            batched = lp == "batched" or (lp == "auto" and len(items) >= FEWEST)
            batched = batched and norm == "l2" and shared.sound
            for at in range(0, len(items), TARGETS_PER_REPORT):
                some = items[at : at + TARGETS_PER_REPORT]
                done = np.zeros(len(some), bool)
                if batched:

                    def fill(block, shared=shared):
                        with _quietly():
                            for piece, found in shared.fit_batched(targets[block]):
                                write(block[piece], found)

                    each(fill, np.split(some, range(BLOCK, len(some), BLOCK)))
                    done = solved[some]
                    report(done.sum())
                for k in some[~done]:
                    write(k, shared.fit(targets[k]).replace(fallback=np.asarray(fallback[k])))
                    report(1)
    return jax.tree.map(lambda column: column.reshape((*batch, *column.shape[1:])), out)


def _fit_sup(user: Float[np.ndarray, "N A Y"], agents: Float[np.ndarray, "N K A Y"], rule: Rule) -> Alignment:
    """Sup-norm fits of many targets at once; `solved` where the gap is at most `SHARP`."""
    size = np.maximum(np.abs(user).max((1, 2)), np.abs(agents).max((1, 2, 3)))
    sound = size < LARGEST_UTILITY  # False for NaN
    user, agents = np.where(sound[:, None, None], user, 0), np.where(sound[:, None, None, None], agents, 0)
    parts = parts_of(user, agents, rule)
    unit, rounding = unit_of(parts, user, agents, rule)
    tried = sound & (unit > rounding)
    scale = np.where(tried, unit, 1.0)[:, None, None]
    found = sup_norm.propose(parts.goal / scale, parts.tables / scale[..., None], rule)
    return _accepted(found.weights, np.nan_to_num(found.dual), parts, rule, np.inf, tried, unit)


def _accepted(w, dual, parts: Parts, rule: Rule, interior: float, tried, unit) -> Alignment:
    """Fits of many targets with proposed weights; of those tried, `solved` where the gap is at most `SHARP`."""
    w = np.nan_to_num(w)
    if rule.simplex:
        total = w.sum(1, keepdims=True)
        w = np.where(total > 0, w / np.where(total > 0, total, 1), 1 / w.shape[1])
    else:
        w = np.where(size_of(parts.tables, "sup") > 0, w, 0)
    found = _answers(w, dual, parts, rule, interior)
    solved = tried & (found.gap <= SHARP * unit) & np.isfinite(found.error)
    return found.replace(solved=solved, fallback=tried & ~solved)


def _answers(w, dual, parts: Parts, rule: Rule, interior: float) -> Alignment:
    """The fits with weights w [..., K] and the best offsets, and the gaps that `dual` proves (None: the residual)."""
    residual, left = split(np.einsum("...k,...kay->...ay", w, parts.tables) - parts.goal, rule)
    error = size_of(residual, rule.norm)
    dual = admissible(residual if dual is None else dual, rule)
    offset = exactly_constant(parts.shift - np.einsum("...k,...ky->...y", w, parts.offsets) - left, rule)
    gap = np.maximum(error - bound(dual, parts, rule, interior), 0)
    return _row(w, offset, error, gap, np.ones(error.shape, bool), residual, dual, np.zeros(error.shape, bool))


def verify(
    found: Alignment, user_utility, agent_utilities, *, weights: str, offset: str, norm: str, tolerance: float = 1e-9
) -> Bool[np.ndarray, "*batch"]:
    """Whether each item's error is attained by its weights and offset, and proved optimal by its dual, checked from the
    data alone.

    tolerance: relative to the error of the best single agent (cone: of zero weights). Rounding of the tables is allowed
               in addition.
    """
    rule = rule_of(weights, offset, norm)
    user, agents = tables_of(user_utility, agent_utilities)
    batch = found.error.shape
    user = np.broadcast_to(user, (*batch, *user.shape[-2:]))
    agents = np.broadcast_to(agents, (*batch, *agents.shape[-3:]))
    verdict = np.zeros(batch, bool)
    for k in zip(*np.nonzero(np.atleast_1d(found.solved)), strict=True):
        k = k if batch else ()
        w, c = found.weights[k], found.offset[k]
        allowed = (w >= 0).all() and (not rule.simplex or abs(w.sum() - 1) < 1e-12)
        allowed &= offset == "per_state" or (c == (c[0] if offset == "constant" else 0)).all()
        attained = size_of(np.tensordot(w, agents[k], 1) + c - user[k], norm)
        parts = parts_of(user[k], agents[k], rule)
        unit, rounding = unit_of(parts, user[k], agents[k], rule)
        slack = tolerance * unit + 10 * rounding + rounding_of(user) * (w * scale_of(agents[k], rule)).sum()
        proved = bound(admissible(found.dual[k], rule), parts, rule)
        verdict[k] = allowed and attained - slack <= found.error[k] <= proved + slack
    return verdict


class _Agents:
    """The agents of one or more targets, prepared once. alone: whether there is one target only."""

    def __init__(self, agents: Float[np.ndarray, "K A Y"], rule: Rule, *, alone: bool):
        self.rule, self.raw, self.alone = rule, agents, alone
        self.sound = _sound(agents)
        if not self.sound:
            return
        # Subtracting a table from u and all U_i does not change a fit on the simplex. The smallest adds least rounding.
        self.middle = agents[size_of(agents, rule.norm).argmin()]
        self.cone_interior = np.inf if rule.simplex else cone_interior(parts_of(agents[0], agents, rule).tables, rule)
        self.shared: Sup | L2 | None = None  # The solver of all targets, made at first use.
        self.shared_problem: tuple[Any, ...] | None = None  # That of `_prepared`.

    def fit(self, target: Float[np.ndarray, "A Y"]) -> Alignment:
        """The fit of one target."""
        K, A, Y = self.raw.shape
        if not (self.sound and _sound(target)):
            return _unsolved(K, A, Y)
        parts = parts_of(target, self.raw, self.rule)
        unit, rounding = map(float, unit_of(parts, target, self.raw, self.rule))
        if unit <= rounding:  # The best single agent (cone: the zero weights) fits up to rounding.
            best = size_of(parts.tables, self.rule.norm).argmin()
            w = np.eye(K)[best] if self.rule.simplex else np.zeros(K)
            return self._answer(w, np.zeros((A, Y)), parts)
        best = _unsolved(K, A, Y)
        if not self.alone:
            common = parts_of(target, self.raw, self.rule, self.middle)
            self.shared = self.shared or self._solver(common)
            best = self._try(self.shared, common.goal, parts, unit, best)
        if not best.gap <= SHARP * unit:
            alone, scale = self._solver(parts), unit
            for _ in range(3):
                best = self._try(alone, parts.goal, parts, scale, best)
                if best.gap <= SHARP * unit or not best.solved:
                    break
                scale = max(float(best.error), 1e-6 * unit)  # A small error needs a small unit.
            if not best.gap <= SOLVED * unit and self.rule.norm == "sup" and Sup.can_be_exact(K, A * Y):
                best = self._try(Sup(parts.tables, self.rule, exact=True), parts.goal, parts, unit, best)
        # Where agents in use nearly cancel, float64 weights and duals are no more accurate than this.
        inaccuracy = 10 * rounding_of(target) * float(best.weights @ size_of(parts.tables, self.rule.norm))
        allowed = max(SOLVED * unit, min(inaccuracy, SOLVED_DESPITE_ROUNDING * unit))
        return best if best.gap <= allowed else _unsolved(K, A, Y)

    def fit_batched(self, targets: Float[np.ndarray, "T A Y"]) -> Iterator[tuple[slice, Alignment]]:
        """Least squares of many targets at once, piece by piece; `solved` where the gap is at most `SHARP`."""
        sound = np.asarray((np.abs(targets) < LARGEST_UTILITY).all((1, 2)))  # False for NaN
        parts = parts_of(np.where(sound[:, None, None], targets, 0), self.raw, self.rule, self.middle)
        self.shared_problem = self.shared_problem or self._prepared(parts.tables)
        tables, size, problem = self.shared_problem
        pieces = [slice(at, at + PIECE) for at in range(0, len(targets), PIECE)]
        goal = parts.goal.reshape(len(targets), -1)
        cross = np.concatenate([goal[piece] @ tables.T for piece in pieces])
        w = np.maximum(least_squares.solve(problem, cross / size), 0) / size
        for piece in pieces:
            some = parts._replace(goal=parts.goal[piece], shift=parts.shift[piece])
            unit, rounding = unit_of(some, targets[piece], self.raw, self.rule)
            tried = sound[piece] & (unit > rounding)
            yield piece, _accepted(w[piece], None, some, self.rule, self.cone_interior, tried, unit)

    def _prepared(self, tables: Float[np.ndarray, "K A Y"]) -> tuple[Any, ...]:
        """The tables [K, A Y], their norms (1 on the simplex, and for a table of zeros), and the least-squares problem
        of all targets, in units of these norms."""
        norms = size_of(tables, "l2")
        flat = tables.reshape(len(tables), -1)
        size = np.ones(len(flat)) if self.rule.simplex else np.where(norms > 0, norms, 1.0)
        problem = least_squares.prepare((flat @ flat.T) / np.multiply.outer(size, size), self.rule.simplex)
        return flat, size, problem

    def _solver(self, parts: Parts) -> Sup | L2:
        return (Sup if self.rule.norm == "sup" else L2)(parts.tables, self.rule)

    def _try(self, solver: Sup | L2, goal, parts: Parts, unit: float, best: Alignment) -> Alignment:
        """The fit of `solver` to `goal`, or `best` if its gap is smaller."""
        found = solver.fit(goal, unit)
        if found is None or not np.isfinite(found[0]).all():
            return best
        w = np.maximum(found[0], 0)
        if not self.rule.simplex:
            w[size_of(parts.tables, "sup") == 0] = 0
        elif w.sum() > 0:
            w = w / w.sum()
        else:
            return best
        answer = self._answer(w, found[1], parts)
        if answer.gap > SHARP * unit:
            closer = self._answer(w, polished_dual(answer.dual, w, parts, self.rule), parts)
            answer = min(answer, closer, key=lambda a: a.gap)
        return best if best.gap <= answer.gap else answer

    def _answer(self, w, dual, parts: Parts) -> Alignment:
        return _answers(w, dual, parts, self.rule, self.cone_interior)


def _quietly():
    """Without warnings of overflow, where entries differ by a factor of 1e300: such items are NaN and not solved. The
    setting applies to the current thread only."""
    return np.errstate(over="ignore", invalid="ignore")


def _sound(x) -> bool:
    return bool(np.isfinite(x).all() and (np.abs(x) < LARGEST_UTILITY).all())


def _unsolved(K: int, A: int, Y: int) -> Alignment:
    table = np.full((A, Y), np.nan)
    return _row(np.full(K, np.nan), np.full(Y, np.nan), np.nan, np.nan, False, table, table, False)


def _row(*values) -> Alignment:
    return Alignment(*(np.asarray(value) for value in values))
