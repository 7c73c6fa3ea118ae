"""Concavification of many problems at once: agents' best payoffs as LPs over beliefs, by column generation, with a
quantal user (section 5.3 of docs/model.md).

Any set of beliefs gives a lower bound, attained by a scheme. The master LP's dual is a price for every x_B; beliefs
whose payoff exceeds their price are added. If no belief's payoff exceeds its price by more than some excess (proved in
`branch_and_bound.py`), the prior's price + excess is an upper bound over all schemes, whatever the prices are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from emalign_jax.exact.concavification import quantal
from emalign_jax.exact.concavification.branch_and_bound import bound_pricing
from emalign_jax.exact.concavification.lattice import simplex_lattice
from emalign_jax.exact.concavification.problems import BeliefProblems, kinks
from emalign_jax.internal.processors import each
from emalign_jax.lp import batched_lp
from emalign_jax.lp.highs import KeptLP

# The largest number of rounds of column generation.
ROUNDS = 30
# In the first of them, prices are not worth a search for local maxima.
ROUGH_ROUNDS = 1
# Relative to the spread of the agent's payoff: a belief is added if its payoff exceeds its price by more.
PRICE_TOLERANCE = 1e-8
# A pricing search starts from this many local maxima on the lattice and this many kinks.
PEAKS, KINKS = 8, 12
# Beliefs kept in a master LP, and added in a round at most.
COLUMNS, NEW = 48, 12
# Beliefs closer than this count as equal.
SAME_BELIEF = 1e-7
# The share of the bracket that a proof may leave open; the rest is for rounding.
PROVED = 0.9
# Relative to the spread: a proved bound that is below an evaluated payoff by more than this is invalid.
ROUNDING = 1e-9
# The largest number of attempts at a proof. Each failed attempt adds the beliefs that refuted it.
PROOFS = 20
# A proof is tried, and a gain taken, where the excess that is found is at most this share of what the proof may leave
# open, or of the gain.
PLAUSIBLE = 0.25
# Of what is to be told apart, the share that an excess may have that adds no belief.
FINE = 0.1
# Numbers of one kind (beliefs * types * actions) in one call, for the cache of a core or for an accelerator.
NUMBERS, MORE_NUMBERS = 2**16, 2**24
# Fewer problems are treated in NumPy and by HiGHS: a compiled call takes as long as 16 of them.
FEW, FEW_LPS = 16, 4
# Not many problems are treated in calls smaller by this factor.
SMALLER, MOST_AT_ONCE = 8, 128


class BeliefOptima(NamedTuple):
    """Optima of n belief LPs.

    value:  [n] the payoff of `scheme`; NaN if an LP failed
    upper:  [n] an upper bound of the payoff of any scheme; inf where no proof was asked for
    scheme: [n, XB, XB]
    """

    value: Float[np.ndarray, "n"]
    upper: Float[np.ndarray, "n"]
    scheme: Float[np.ndarray, "n XB S"]


class BeliefLPs:
    """The master LPs of P problems, kept with their beliefs from call to call.

    beliefs:  [P, N, B] further initial beliefs, such as those of the agents' present schemes; any scale, zeros count as
              none
    compiled: whether to use compiled kernels and the batched simplex, instead of NumPy and HiGHS
    """

    def __init__(self, problems: BeliefProblems, beliefs: Float[np.ndarray, "P N B"], compiled: bool):
        self.problems, self.compiled = problems, compiled
        B, P = problems.size[0], len(problems.target)
        self._lattice = simplex_lattice(B)
        self._kinks = kinks(problems)
        self._paid_at_candidates = self._each(
            self._evaluate, len(self._lattice.points) + self._kinks.shape[1], np.arange(P), problems, self._kinks
        )[0]
        whole = beliefs.sum(2, keepdims=True)
        vertices = np.broadcast_to(np.eye(B), (P, B, B))
        beliefs = np.where(whole > 0, beliefs / np.where(whole > 0, whole, 1), vertices[:, :1])
        prior = problems.target[:, None] / problems.target.sum(1)[:, None, None]
        points = np.concatenate([vertices, prior, beliefs], 1)
        spare = max(0, max(COLUMNS, B + NEW) + B - points.shape[1])  # Room for new beliefs beside those in use.
        self.points = np.concatenate([points, np.repeat(vertices[:, :1], spare, 1)], 1)
        self.paid = problems.payoffs(self.points)
        self.price, self.weights = np.zeros((P, B)), np.zeros(self.paid.shape)
        self.fallback, self.failed = np.zeros(P, bool), np.zeros(P, bool)
        self._settled = np.zeros(P, bool)
        self._fine = PRICE_TOLERANCE * np.maximum(problems.spread, 1e-300)  # A larger excess adds a belief.

    def best(self, some: Int[np.ndarray, "n"], bracket=None, work: int = 0) -> BeliefOptima:
        """The best payoffs of these problems.

        bracket: [n] prove upper bounds within this distance of the values, with at most `work` cells each; None: do not
        """
        self._generate(some)
        if bracket is None:
            return self._optima(some, np.full(len(some), np.inf))
        return self._optima(some, self._prove(some, work, lambda n, level: PROVED * bracket[n]))

    def better(self, some, present: Float[np.ndarray, "n"], enough: Float[np.ndarray, "n"]) -> BeliefOptima:
        """As `best`, but only as good as needed to tell whether schemes pay more than `enough`: column generation stops
        where a proof that none does may succeed, and where the value is above `enough` and most of what can be gained
        over `present` is found. `value` is then only a lower bound."""
        self._refine(some, enough - present)
        self._generate(some, present, enough)
        return self._optima(some, np.full(len(some), np.inf))

    def prove(self, some, present, enough: Float[np.ndarray, "n"], work: int) -> BeliefOptima:
        """Prove that no scheme pays more than `enough`, with at most `work` cells each: the upper bounds are larger
        where that is not true or `work` is too little. present: as in `better`."""
        self._refine(some, enough - present)
        found = self._prove(some, work, lambda n, level: PROVED * (enough[n] - level), present, enough)
        return self._optima(some, found)

    def _refine(self, some, room: Float[np.ndarray, "n"]) -> None:
        """Look for smaller excesses where little is to be told apart, but none that are rounding."""
        least = ROUNDING * self.problems.spread[some] / 10
        self._fine[some] = np.clip(FINE * room, np.maximum(least, 1e-300), self._fine[some])

    def _prove(self, some, work: int, target_of, *limits) -> Float[np.ndarray, "n"]:
        """Upper bounds of these problems' payoffs; each refutation adds beliefs.

        target_of: of problem numbers and the prior's price, the excess to prove.
        """
        problems, left = self.problems, np.arange(len(some))
        upper, spent, least = np.full(len(some), np.inf), np.zeros(len(some), int), np.zeros(len(some))
        for _ in range(PROOFS):
            which = some[left]
            whole = problems.target[which].sum(1)
            level = (self.price[which] * problems.target[which]).sum(1)
            target = np.maximum(target_of(left, level) / whole, least[left])
            hopeless = (target <= 0) | self.failed[which]  # The value is above what is to be proved.
            proof = bound_pricing(
                problems.rows(which),
                self.price[which],
                target,
                np.where(hopeless, 0, work - spent[left]),
                self.compiled,
            )
            spent[left] += proof.work
            sound = np.isfinite(proof.upper) & (proof.upper >= proof.best - ROUNDING * problems.spread[which])
            excess = np.where(sound, np.maximum(np.maximum(proof.upper, proof.best), 0), np.inf)
            upper[left] = np.minimum(upper[left], level + excess * whole)
            again = (proof.best > target) & (spent[left] < work) & ~hopeless
            if not again.any():
                break
            left, at, best = left[again], proof.at[again], proof.best[again]
            added = self._add(some[left], *self._ascend(some[left], at))
            # The excess is below the price tolerance but above the target, so that the target is raised.
            least[left[~added]] = 2 * best[~added]
            self._settled[some[left[added]]] = False
            self._generate(some[left[added]], *(x[left[added]] for x in limits))
        return upper

    def _generate(self, some, present=None, enough=None) -> None:
        """Solve the master LPs, adding beliefs whose payoff exceeds their price, until none is found, or until the
        excess that is found is small enough, as in `better`."""
        B = self.problems.size[0]
        left = np.flatnonzero(~self._settled[some])
        for number in range(ROUNDS):
            if not len(left):
                return
            which = some[left]
            self._solve(which)
            kernel = self._candidates if number < ROUGH_ROUNDS else self._search
            beliefs, excess = self._each(
                kernel, B + PEAKS + KINKS, which, self.problems, self._kinks, self._paid_at_candidates, self.price,
                self._in_use(),
            )  # fmt: skip
            going = self._add(which, beliefs, excess) & ~self.failed[which]
            if number < ROUGH_ROUNDS:
                continue
            self._settled[which[~going]] = True
            if present is not None and enough is not None:
                target = self.problems.target[which]
                level, most = (self.price[which] * target).sum(1), np.maximum(excess.max(1), 0) * target.sum(1)
                room = np.where(level > enough[left], level - present[left], enough[left] - level)
                going &= most > PLAUSIBLE * room
            left = left[going]
        self._solve(some[left])
        self._settled[some[left]] = True

    def _solve(self, some) -> None:
        """Solve the master LPs of these problems."""
        possible = self.problems.target[some] > 0
        rows = self.points[some].swapaxes(1, 2) * possible[:, :, None]
        paid, target = self.paid[some], self.problems.target[some]
        B, ok = rows.shape[1], np.zeros(len(some), bool)
        x, price = np.zeros(paid.shape), np.zeros(target.shape)
        if self.compiled and len(some) >= FEW_LPS:
            first = np.broadcast_to(np.arange(B, dtype=np.int32), (len(some), B))
            found = batched_lp.maximise(paid, rows, target, equal=B, first=first)
            ok, x, price = found.proved, found.x, found.dual
            self.fallback[some] |= ~ok
        for n in np.flatnonzero(~ok):
            result = KeptLP(rows[n], target[n], target[n], cost=paid[n]).solve()
            if result.optimal:
                x[n], price[n] = result.x, result.row_dual
            else:
                self.failed[some[n]], x[n], price[n] = True, 0.0, 0.0
        self.weights[some], self.price[some] = np.maximum(x, 0), np.where(possible, price, 0)

    def _in_use(self) -> Float[np.ndarray, "P B B"]:
        """The beliefs of the last solutions."""
        B = self.problems.size[0]
        top = np.argsort(-self.weights, 1, kind="stable")[:, :B]
        return np.take_along_axis(self.points, top[:, :, None], 1)

    def _add(
        self, some, beliefs: Float[np.ndarray, "n R B"], excess: Float[np.ndarray, "n R"]
    ) -> Bool[np.ndarray, "n"]:
        """Add those beliefs whose payoff exceeds their price, in place of those that are worth least; returns for which
        problems there were any."""
        if not len(some):
            return np.zeros(0, bool)
        order = np.argsort(-excess, 1, kind="stable")
        beliefs, excess = np.take_along_axis(beliefs, order[:, :, None], 1), np.take_along_axis(excess, order, 1)
        same = (np.abs(beliefs[:, :, None] - beliefs[:, None]) < SAME_BELIEF).all(3)
        earlier = (same & np.tri(same.shape[1], k=-1, dtype=bool)).any(2)
        good = (excess > self._fine[some, None]) & ~earlier
        added = np.asarray(good.any(1))
        n, place = np.nonzero(good & (np.cumsum(good, 1) <= NEW))
        rank = (np.cumsum(good, 1) - 1)[n, place]
        worth = self.paid[some] - (self.points[some] * self.price[some][:, None]).sum(2)
        worth = np.where(self.weights[some] > 0, np.inf, worth)
        worth[:, : self.problems.size[0]] = np.inf  # The vertices stay.
        least = np.argsort(worth, 1, kind="stable")
        slot = least[n, rank]
        self.points[some[n], slot] = beliefs[n, place]
        pay = self.problems.rows(some).payoffs  # in NumPy
        fresh = np.zeros((len(some), NEW, beliefs.shape[2]))
        fresh[n, rank] = beliefs[n, place]
        self.paid[some[n], slot] = pay(fresh)[n, rank]
        self.weights[some[n], slot] = 0
        return added

    def _optima(self, some, upper) -> BeliefOptima:
        """The schemes of the last solutions, with these upper bounds."""
        B, target = self.problems.size[0], self.problems.target[some]
        top = np.argsort(-self.weights[some], 1, kind="stable")[:, :B]
        weights = np.take_along_axis(self.weights[some], top, 1)
        weights = np.where(weights > 1e-12, weights, 0)
        posteriors = np.take_along_axis(self.points[some], top[:, :, None], 1) * weights[:, :, None]
        sent = np.asarray(posteriors.sum(1))  # [n, B]
        used: Any = weights > 0
        even = np.where(used.any(1)[:, None], used / np.maximum(used.sum(1), 1)[:, None], 1 / B)
        known: Any = (sent > 0) & (target > 0)
        scheme = np.where(known[:, None], posteriors / np.where(known, sent, 1)[:, None], even[:, :, None])
        value = self.problems.rows(some).payoffs(scheme * target[:, None]).sum(1)
        failed = self.failed[some]
        value, upper = np.where(failed, np.nan, value), np.where(failed, np.inf, np.maximum(upper, value))
        return BeliefOptima(value, upper, scheme.swapaxes(1, 2))

    # kernels

    def _each(self, kernel: Callable[..., Any], beliefs: int, some, problems, *arrays) -> tuple[np.ndarray, ...]:
        """kernel(problems, *arrays) of these problems, in calls of few sizes, distributed over the cores.

        beliefs: the number of beliefs of each problem.
        """
        _, T, A = self.problems.size
        room = MORE_NUMBERS if self.compiled and jax.default_backend() != "cpu" else NUMBERS
        compiled = self.compiled and len(some) >= FEW
        many = min(MOST_AT_ONCE, max(1, 1 << int(np.log2(max(room // (beliefs * A * T), 1)))))
        sizes = max(1, many // SMALLER), many

        def call(first):
            rows = some[first : first + many]
            if compiled:  # The last problem is repeated.
                rows = some[np.minimum(first + np.arange(sizes[len(rows) > sizes[0]]), len(some) - 1)]
            with jax.enable_x64(True), np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                found = kernel(problems.rows(rows), *(x[rows] for x in arrays), xp=jnp if compiled else np)
                return [np.asarray(x) for x in found]

        parts = zip(*each(call, range(0, len(some), many)), strict=True)
        return tuple(np.concatenate(x)[: len(some)] for x in parts)

    def _evaluate(self, problems: BeliefProblems, corners, xp):
        """The payoffs at the candidates [G, N]: the lattice and the kinks."""
        points = np.broadcast_to(self._lattice.points, (len(corners), *self._lattice.points.shape))
        beliefs = np.ascontiguousarray(np.moveaxis(np.concatenate([points, corners], 1), -1, 0))
        return quantal.payoffs(problems.setting(np.zeros_like(problems.target)), beliefs, xp=xp)[:1]

    def _candidates(self, problems: BeliefProblems, corners, paid, price, in_use, xp):
        """The best candidates [G, R, B], and payoff less price."""
        points = self._lattice.points
        worth = paid - np.concatenate([price @ points.T, (corners * price[:, None]).sum(2)], 1)
        top = _largest(worth[:, : len(points)], PEAKS), len(points) + _largest(worth[:, len(points) :], KINKS)
        chosen = np.take_along_axis(corners, top[1][:, :, None] - len(points), 1)
        beliefs = np.concatenate([points[top[0]], chosen], 1)
        return beliefs, np.take_along_axis(worth, np.concatenate(top, 1), 1)

    def _search(self, problems: BeliefProblems, corners, paid, price, in_use, xp):
        """Local maxima of payoff less price [G, R, B] near the best candidates and the beliefs in use, and their
        values."""
        points, near = self._lattice.points, self._lattice.neighbours
        on_lattice = paid[:, : len(points)] - price @ points.T
        peaks = np.where(on_lattice >= on_lattice[:, near].max(2), on_lattice, -np.inf) if near.size else on_lattice
        at_kinks = paid[:, len(points) :] - (corners * price[:, None]).sum(2)
        starts = [in_use, points[_largest(peaks, PEAKS)]]
        starts.append(np.take_along_axis(corners, _largest(at_kinks, KINKS)[:, :, None], 1))
        return self._climb(problems, price, np.concatenate(starts, 1), xp)

    def _ascend(self, some, starts):
        return self._each(self._climb, starts.shape[1], some, self.problems, *self._at(some, self.price, starts))

    def _at(self, some, price, starts):
        whole = np.zeros((len(self.price), *starts.shape[1:]))
        whole[some] = starts
        return price, whole

    def _climb(self, problems: BeliefProblems, price, starts, xp):
        begin = np.ascontiguousarray(np.moveaxis(starts, -1, 0))
        ends, excess = quantal.ascend(problems.setting(price), begin, self._lattice.spacing, xp)
        return np.moveaxis(np.asarray(ends), 0, -1), excess


def _largest(values: Float[np.ndarray, "G N"], count: int) -> Int[np.ndarray, "G count"]:
    count = min(count, values.shape[1])
    return np.argpartition(-values, count - 1, axis=1)[:, :count]
