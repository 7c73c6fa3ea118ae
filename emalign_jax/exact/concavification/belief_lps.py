"""Concavification of many problems at once: agents' best payoffs as LPs over beliefs, by column generation (section 5.3
of docs/model.md).

Any set of beliefs gives a lower bound, attained by a scheme. The master LP's dual is a price for every x_B; beliefs
whose payoff exceeds their price are added. If no belief's payoff exceeds its price by more than some excess (proved by
branch and bound for a quantal user, by enumeration or a MILP for a rational one), the prior's price + excess is an
upper bound over all schemes, whatever the prices are.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from emalign_jax.exact.concavification.branch_and_bound import REFUTES, PricingBounds
from emalign_jax.exact.concavification.lattice import simplex_lattice
from emalign_jax.exact.concavification.problems import BeliefProblems, priced
from emalign_jax.internal.processors import each
from emalign_jax.internal.transfers import fetch
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
# Places for beliefs in a master LP beside those that it starts with, and beliefs added in a round at most.
COLUMNS, NEW = 40, 12
# Beliefs closer than this count as equal.
SAME_BELIEF = 1e-7
# The share of the bracket that a proof may leave open; the rest is for rounding.
PROVED = 0.9
# Where a bracket is asked for, bounds within so many times of it are proved first: if work runs out they are left.
LOOSER = 8.0
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
    upper:  [n] an upper bound of the payoff of any scheme that is allowed; inf where no proof was asked for
    scheme: [n, XB, S]
    level, value_price: [n] level - value_price * v is an upper bound of the payoff of any scheme at user value v, or
            (where the user's value is only bounded from below) at least v
    """

    value: Float[np.ndarray, "n"]
    upper: Float[np.ndarray, "n"]
    scheme: Float[np.ndarray, "n XB S"]
    level: Float[np.ndarray, "n"]
    value_price: Float[np.ndarray, "n"]


class AbstractBeliefLPs(abc.ABC):
    """The master LPs of P problems, kept with their beliefs from call to call.

    beliefs:  [P, N, B] further initial beliefs, such as those of the agents' present schemes; any scale, zeros count as
              none
    compiled: whether to use compiled kernels and the batched simplex, instead of NumPy and HiGHS

    fallback: [P] whether HiGHS solved a master LP because the batched simplex's answer was not proved
    """

    has_kernels = True  # Whether the methods that end in _kernel can be compiled.

    def __init__(self, problems: BeliefProblems, beliefs: Float[np.ndarray, "P N B"], compiled: bool):
        self.problems, self.compiled = problems, compiled
        B, P = problems.size[0], len(problems.target)
        self._lattice = simplex_lattice(B)
        self._corners = self.list_corners()
        own, user = self._each(
            self._candidates_kernel, len(self._lattice.points) + self._corners.shape[1], np.arange(P), self._corners
        )
        self._own_at_candidates, self._user_at_candidates = own, user
        whole = beliefs.sum(2, keepdims=True)
        vertices = np.broadcast_to(np.eye(B), (P, B, B))
        beliefs = np.where(whole > 0, beliefs / np.where(whole > 0, whole, 1), vertices[:, :1])
        prior = problems.target[:, None] / problems.target.sum(1)[:, None, None]
        self._lasting = B + 1 + beliefs.shape[1]  # The initial beliefs stay.
        spare = np.repeat(vertices[:, :1], max(COLUMNS, 2 * B + 1 + NEW), 1)
        self.points = np.concatenate([vertices, prior, beliefs, spare], 1)
        self.own, self.user = self.payoffs(problems, self.points)
        self.price, self.weights = np.zeros((P, B)), np.zeros(self.own.shape)
        # Bounds of the user's value, which a kind may set, and the prices of that row.
        self._values, self.value_price = np.tile([-np.inf, np.inf], (P, 1)), np.zeros(P)
        self.fallback, self.failed = np.zeros(P, bool), np.zeros(P, bool)
        self._settled = np.zeros(P, bool)
        self._fine = PRICE_TOLERANCE * np.maximum(problems.spread, 1e-300)  # A larger excess adds a belief.

    # The user's responses.

    @abc.abstractmethod
    def list_corners(self) -> Float[np.ndarray, "P N B"]:
        """Beliefs near which the user's response changes fast, beside those of the lattice."""

    @staticmethod
    @abc.abstractmethod
    def payoffs(problems: BeliefProblems, beliefs: Float[np.ndarray, "P R B"], xp=np) -> tuple[Any, Any]:
        """The payoff `own` and the user's value [P, R] at unnormalised beliefs."""

    @abc.abstractmethod
    def climb_kernel(self, problems: BeliefProblems, price, starts, xp) -> tuple[Any, Any]:
        """Beliefs [G, R, B] near `starts` that are worth more, if the response is smooth, and payoff less price."""

    @abc.abstractmethod
    def bound(
        self, some, target: Float[np.ndarray, "n"], work: Int[np.ndarray, "n"], looser: float = 1.0
    ) -> PricingBounds:
        """Upper bounds of payoff less price over all beliefs, for these problems and their present prices: until each
        is proved to be at most `target`, a belief above REFUTES times it is found, or the work is done. Bounds of
        `looser` times the targets may be proved first."""

    # Optima.

    def best(self, some: Int[np.ndarray, "n"], bracket=None, work: int = 0, rough: bool = False) -> BeliefOptima:
        """The best payoffs of these problems.

        bracket: [n] prove upper bounds within this distance of the values, with at most `work` operations each
                 (`branch_and_bound.operations` for a cell); None: do not
        rough:   use only beliefs of the lattice and corners
        """
        self._generate(some, rough=rough)
        proof = (
            None
            if bracket is None
            else self._prove(some, work, lambda n, level: PROVED * bracket[n], looser=LOOSER, rough=rough)
        )
        self._settled[some] &= not rough
        return self._optima(some, proof)

    def better(self, some, present: Float[np.ndarray, "n"], enough: Float[np.ndarray, "n"]) -> BeliefOptima:
        """As `best`, but only as good as needed to tell whether schemes pay more than `enough`: column generation stops
        where a proof that none does may succeed, and where the value is above `enough` and most of what can be gained
        over `present` is found. `value` is then only a lower bound."""
        self._refine(some, enough - present)
        self._generate(some, present, enough)
        return self._optima(some, None)

    def prove(self, some, present, enough: Float[np.ndarray, "n"], work: int) -> BeliefOptima:
        """Prove that no scheme pays more than `enough`, with at most `work` operations each: the upper bounds are
        larger where that is not true or `work` is too little. present: as in `better`."""
        self._refine(some, enough - present)
        return self._optima(
            some, self._prove(some, work, lambda n, level: PROVED * (enough[n] - level), present, enough)
        )

    def _refine(self, some, room: Float[np.ndarray, "n"]) -> None:
        """Look for smaller excesses where little is to be told apart, but none that are rounding."""
        least = ROUNDING * self.problems.spread[some] / 10
        self._fine[some] = np.clip(FINE * room, np.maximum(least, 1e-300), self._fine[some])

    def _prove(self, some, work: int, target_of, *limits, looser=1.0, rough=False) -> tuple[np.ndarray, ...]:
        """Upper bounds of these problems' payoffs, and the levels and value prices that imply them; each refutation
        adds beliefs.

        target_of: of problem numbers and the prior's price, the excess to prove.
        looser:    as in `bound`
        """
        problems, left, n = self.problems, np.arange(len(some)), len(some)
        upper, levels, prices = np.full(n, np.inf), np.full(n, np.inf), np.zeros(n)
        spent, least = np.zeros(n, int), np.zeros(n)
        for _ in range(PROOFS):
            which = some[left]
            whole, value_price = problems.target[which].sum(1), self.value_price[which]
            level = self._level(which)
            target = np.maximum(target_of(left, level) / whole, least[left])
            hopeless = (target <= 0) | self.failed[which]  # The value is above what is to be proved.
            proof = self.bound(which, target, np.where(hopeless, 0, work - spent[left]), looser)
            spent[left] += proof.work
            sound = np.isfinite(proof.upper) & (proof.upper >= proof.best - ROUNDING * problems.spread[which])
            bound = level + np.where(sound, np.maximum(np.maximum(proof.upper, proof.best), 0), np.inf) * whole
            closer = bound < upper[left]
            at_zero = bound + self._paid_for_value(which)
            for kept, new in ((upper, bound), (levels, at_zero), (prices, value_price)):
                kept[left[closer]] = new[closer]
            again = (proof.best > REFUTES * target) & (spent[left] < work) & ~hopeless
            if not again.any():
                break
            left, at, best = left[again], proof.at[again], proof.best[again]
            added = self.add(some[left], *self.climb(some[left], at))
            # The excess is too small for the price but not for the target, so that the target is raised.
            least[left[~added]] = 2 * best[~added] / REFUTES
            self._settled[some[left[added]]] = False
            self._generate(some[left[added]], *(x[left[added]] for x in limits), rough=rough)
        return upper, levels, prices

    def _level(self, some) -> Float[np.ndarray, "n"]:
        """The duals' values: bounds of the payoff if no belief is worth more than its price."""
        return (self.price[some] * self.problems.target[some]).sum(1) - self._paid_for_value(some)

    def _paid_for_value(self, some) -> Float[np.ndarray, "n"]:
        """The least that the user's value costs within its bounds: at the lower one for a price > 0, and there is
        such a price only where there is such a bound."""
        price, values = self.value_price[some], self._values[some]
        low, high = np.where(np.isfinite(values), values, 0).T
        return np.where(price > 0, price * low, np.where(price < 0, price * high, 0))

    def _generate(self, some, present=None, enough=None, rough: bool = False) -> None:
        """Solve the master LPs, adding beliefs whose payoff exceeds their price, until none is found, or until the
        excess that is found is small enough, as in `better`."""
        left = np.flatnonzero(~self._settled[some])
        for number in range(ROUNDS):
            if not len(left):
                return
            which = some[left]
            self._solve(which)
            beliefs, excess = self.search(which, rough or number < ROUGH_ROUNDS)
            going = self.add(which, beliefs, excess) & ~self.failed[which]
            if number < ROUGH_ROUNDS and not rough:
                continue
            self._settled[which[~going]] = True
            if present is not None and enough is not None:
                level, most = self._level(which), np.maximum(excess.max(1), 0) * self.problems.target[which].sum(1)
                room = np.where(level > enough[left], level - present[left], enough[left] - level)
                going &= most > PLAUSIBLE * room
            left = left[going]
        self._solve(some[left])
        self._settled[some[left]] = True

    def _solve(self, some) -> None:
        """Solve the master LPs of these problems."""
        possible = self.problems.target[some] > 0
        rows = self.points[some].swapaxes(1, 2) * possible[:, :, None]
        own, user, target = self.own[some], self.user[some], self.problems.target[some]
        B, ok, (low, high) = rows.shape[1], np.zeros(len(some), bool), self._values[some].T
        x, price, value_price = np.zeros(own.shape), np.zeros(target.shape), np.zeros(len(some))
        if self.compiled and len(some) >= FEW_LPS:
            first = np.broadcast_to(np.arange(B, dtype=np.int32), (len(some), B))
            whole, right = rows, target
            if np.isfinite(self._values[some]).any():
                # Where there is no bound, one that no weights reach: they add up to the sum of the target.
                far = 1 + (np.abs(user).max(1) + 1) * target.sum(1)
                whole = np.concatenate([rows, user[:, None], -user[:, None]], 1)
                right = np.concatenate([target, np.minimum(high, far)[:, None], np.minimum(-low, far)[:, None]], 1)
            found = batched_lp.maximise(own, whole, right, equal=B, first=first)
            ok, x, price = found.proved, found.x, found.dual[:, :B]
            value_price = (found.dual[:, B + 1 :] - found.dual[:, B:-1]).sum(1)
            self.fallback[some] |= ~ok
        for n in np.flatnonzero(~ok):
            with_value = np.concatenate([rows[n], user[n][None]])
            lp = KeptLP(with_value, np.append(target[n], low[n]), np.append(target[n], high[n]), cost=own[n])
            result = lp.solve()
            if result.optimal:
                x[n], price[n], value_price[n] = result.x, result.row_dual[:-1], -result.row_dual[-1]
            else:
                self.failed[some[n]], x[n], price[n], value_price[n] = True, 0.0, 0.0, 0.0
        self.weights[some], self.price[some] = np.maximum(x, 0), np.where(possible, price, 0)
        self.value_price[some] = np.where(np.isfinite(np.where(value_price > 0, low, high)), value_price, 0)

    def search(self, some, rough: bool) -> tuple[Float[np.ndarray, "n R B"], Float[np.ndarray, "n R"]]:
        """Beliefs that may be worth more than their present price, and by how much they are.

        rough: only look at the lattice and corners.
        """
        kernel = self._best_candidates_kernel if rough else self._search_kernel
        beliefs, excess = self._each(
            kernel, self.problems.size[0] + PEAKS + KINKS, some, self._corners, self._own_at_candidates,
            self._user_at_candidates, self.price, self.value_price, self._in_use(),
        )  # fmt: skip
        return beliefs, excess

    def _in_use(self) -> Float[np.ndarray, "P B B"]:
        """Beliefs of the last solutions."""
        B = self.problems.size[0]
        top = np.argsort(-self.weights, 1, kind="stable")[:, :B]
        return np.take_along_axis(self.points, top[:, :, None], 1)

    def add(self, some, beliefs: Float[np.ndarray, "n R B"], excess: Float[np.ndarray, "n R"]) -> Bool[np.ndarray, "n"]:
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
        worth = self.own[some] + self.value_price[some, None] * self.user[some]
        worth = worth - (self.points[some] * self.price[some][:, None]).sum(2)
        worth = np.where(self.weights[some] > 0, np.inf, worth)
        worth[:, : self._lasting] = np.inf
        least = np.argsort(worth, 1, kind="stable")
        slot = least[n, rank]
        self.points[some[n], slot] = beliefs[n, place]
        fresh = np.zeros((len(some), NEW, beliefs.shape[2]))
        fresh[n, rank] = beliefs[n, place]
        for kept, paid in zip((self.own, self.user), self.payoffs(self.problems.rows(some), fresh), strict=True):
            kept[some[n], slot] = paid[n, rank]
        self.weights[some[n], slot] = 0
        return added

    def _optima(self, some, proof: tuple[np.ndarray, ...] | None) -> BeliefOptima:
        """The schemes of the last solutions, with these upper bounds, levels and value prices."""
        B, target = self.problems.size[0], self.problems.target[some]
        most = B + int(np.isfinite(self._values).any())  # As many beliefs as rows.
        top = np.argsort(-self.weights[some], 1, kind="stable")[:, :most]
        weights = np.take_along_axis(self.weights[some], top, 1)
        weights = np.where(weights > 1e-12, weights, 0)
        posteriors = np.take_along_axis(self.points[some], top[:, :, None], 1) * weights[:, :, None]
        sent = np.asarray(posteriors.sum(1))  # [n, B]
        used: Any = weights > 0
        even = np.where(used.any(1)[:, None], used / np.maximum(used.sum(1), 1)[:, None], 1 / most)
        known: Any = (sent > 0) & (target > 0)
        scheme = np.where(known[:, None], posteriors / np.where(known, sent, 1)[:, None], even[:, :, None])
        value = self.payoffs(self.problems.rows(some), scheme * target[:, None])[0].sum(1)
        failed = self.failed[some]
        infinite = np.full(len(some), np.inf)
        upper, level, value_price = (infinite, infinite, np.zeros(len(some))) if proof is None else proof
        value, upper = np.where(failed, np.nan, value), np.where(failed, np.inf, np.maximum(upper, value))
        scheme = np.where(failed[:, None, None], np.nan, scheme)
        return BeliefOptima(value, upper, scheme.swapaxes(1, 2), level, value_price)

    # Kernels, which treat G problems at once, in NumPy or compiled.

    def _each(self, kernel: Callable[..., Any], beliefs: int, some, *arrays) -> tuple[np.ndarray, ...]:
        """kernel(problems, *arrays) of these problems, in calls of few sizes, distributed over the cores.

        beliefs: the number of beliefs of each problem.
        """
        _, T, A = self.problems.size
        compilable = self.compiled and self.has_kernels
        room = MORE_NUMBERS if compilable and jax.default_backend() != "cpu" else NUMBERS
        compiled = compilable and len(some) >= FEW
        many = min(MOST_AT_ONCE, max(1, 1 << int(np.log2(max(room // (beliefs * A * T), 1)))))
        sizes = max(1, many // SMALLER), many

        def call(first):
            rows = some[first : first + many]
            if compiled:  # The last problem is repeated.
                rows = some[np.minimum(first + np.arange(sizes[len(rows) > sizes[0]]), len(some) - 1)]
            with jax.enable_x64(True), np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                problems = self.problems.rows(rows)
                return fetch(kernel(problems, *(x[rows] for x in arrays), xp=jnp if compiled else np))

        parts = zip(*each(call, range(0, len(some), many)), strict=True)
        return tuple(np.concatenate(x)[: len(some)] for x in parts)

    def _candidates_kernel(self, problems: BeliefProblems, corners, xp):
        """The payoffs `own` and the user's values at the candidates [G, N]: the lattice and the corners."""
        points = np.broadcast_to(self._lattice.points, (len(corners), *self._lattice.points.shape))
        return self.payoffs(problems, np.concatenate([points, corners], 1), xp)

    def _worth(self, corners, own, user, price, value_price):
        """Payoff less price at the lattice and at the corners."""
        points, paid = self._lattice.points, own + value_price[:, None] * user
        on_lattice = paid[:, : len(points)] - price @ points.T
        return on_lattice, paid[:, len(points) :] - (corners * price[:, None]).sum(2)

    def _best_candidates_kernel(self, problems, corners, own, user, price, value_price, in_use, xp):
        """The best candidates [G, R, B], and payoff less price."""
        parts = []
        worths = self._worth(corners, own, user, price, value_price)
        for worth, points, most in zip(worths, (self._lattice.points[None], corners), (PEAKS, KINKS), strict=True):
            top = _largest(worth, most)
            parts.append((np.take_along_axis(points, top[:, :, None], 1), np.take_along_axis(worth, top, 1)))
        beliefs, worth = zip(*parts, strict=True)
        return np.concatenate(beliefs, 1), np.concatenate(worth, 1)

    def _search_kernel(self, problems, corners, own, user, price, value_price, in_use, xp):
        """What is reached from the best candidates and the beliefs in use [G, R, B], and payoff less price."""
        points, near = self._lattice.points, self._lattice.neighbours
        on_lattice, at_corners = self._worth(corners, own, user, price, value_price)
        peaks = np.where(on_lattice >= on_lattice[:, near].max(2), on_lattice, -np.inf) if near.size else on_lattice
        starts = [in_use, points[_largest(peaks, PEAKS)]]
        starts.append(np.take_along_axis(corners, _largest(at_corners, KINKS)[:, :, None], 1))
        return self._climb_kernel(problems, np.concatenate(starts, 1), price, value_price, xp)

    def climb(self, some, starts: Float[np.ndarray, "n R B"]) -> tuple[np.ndarray, ...]:
        """Beliefs near `starts` that are worth more, if the response is smooth, and payoff less price."""
        whole = np.zeros((len(self.price), *starts.shape[1:]))
        whole[some] = starts
        return self._each(self._climb_kernel, starts.shape[1], some, whole, self.price, self.value_price)

    def _climb_kernel(self, problems: BeliefProblems, starts, price, value_price, xp):
        return self.climb_kernel(priced(problems, value_price), price, starts, xp)


def _largest(values: Float[np.ndarray, "G N"], count: int) -> Int[np.ndarray, "G count"]:
    count = min(count, values.shape[1])
    return np.argpartition(-values, count - 1, axis=1)[:, :count]
