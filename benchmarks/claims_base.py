"""Claims and how they are counted; and games once more in NumPy, on the raw arrays: sizes, ties, responses.

Written from `docs/model.md` alone, apart from the library: differences between actions outcome by outcome, ties pair by
pair, units by a knapsack. Claims compare the library with these numbers, and count margins in these units.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linprog

import emalign_jax as em

TIE = 1e-7  # two actions are tied if one falls short by at most this share of what they differ by
VALUE = 1e-9  # of a unit: to which values are known, and within which two agents are worth the same to the user
ROUNDING = 8 * np.finfo(float).eps  # of the numbers summed: a difference within it is none


class Claim(NamedTuple):
    """margin [n] >= 0 where it holds, `allowed` [n] below that is rounding; both as shares of a unit."""

    name: str
    margin: Any
    allowed: Any = VALUE


class Violation(NamedTuple):
    claim: str
    index: int
    by: float


def violations(claims: list[Claim]) -> list[Violation]:
    """Every claim that fails, and where; a margin of NaN fails."""
    found = []
    for claim in claims:
        margin, allowed = np.broadcast_arrays(np.ravel(claim.margin), np.ravel(claim.allowed))
        for k in np.flatnonzero(~(margin >= -allowed)):
            found.append(Violation(claim.name, int(k), float(-margin[k])))
    return found


class Tally:
    """Rows of the table by claim."""

    def __init__(self):
        self.rows: dict[str, list] = {}
        self.failed: list[str] = []

    def add(self, where: str, claims: list[Claim]) -> None:
        for claim in claims:
            if not np.size(claim.margin):
                continue
            row = self.rows.setdefault(claim.name, [0, 0, np.inf, 0.0])
            bad = violations([claim])
            row[0] += np.size(claim.margin)
            row[1] += len(bad)
            row[2] = min(row[2], float(np.min(claim.margin)))
            row[3] = max(row[3], float(np.max(claim.allowed)))
            self.failed += [f"{v.claim}: {where}, index {v.index}, by {v.by:.3g}" for v in bad]

    def __str__(self) -> str:
        width = max(map(len, self.rows))
        lines = [f"{'claim':<{width}}  checked  violations  smallest margin  most allowed"]
        for name, (checked, bad, margin, allowed) in self.rows.items():
            lines.append(f"{name:<{width}}  {checked:7,}  {bad:10,}  {margin + 0.0:15.2e}  {allowed:12.1e}")
        return "\n".join(lines)


def far(a, b):
    return np.abs(np.asarray(a) - b)


def concatenate(parts: list[em.Game]) -> em.Game:
    return em.Game(*(np.concatenate(list(arrays)) for arrays in zip(*map(arrays_of, parts), strict=True)))


def arrays_of(games: em.Game) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """prior, user_utility and agent_utilities in float64."""
    fields = games.prior, games.user_utility, games.agent_utilities
    prior, user, agents = (np.asarray(x, np.float64) for x in fields)
    return prior, user, agents


# sizes, by definition


class Raw(NamedTuple):
    """Totals and differences of games [N] by their definition, and sizes to compare with.

    Differences D[..., a, c] are by how much a beats c in a cell (x_A, x_B); 0 where that is rounding.
    """

    m: np.ndarray  # [N, XA, XB]
    g: np.ndarray  # [N, XA, XB, A]
    G: np.ndarray  # [N, K, XA, XB, A]
    D: np.ndarray  # [N, XA, XB, A, A] of the user
    E: np.ndarray  # [N, K, XA, XB, A, A] of the agents
    scale: np.ndarray  # [N] the user's unit; 1 if there is none
    stakes: np.ndarray  # [N, K] the agents' units; 1 if there is none
    none: np.ndarray  # [N] V_none of a rational user
    full: np.ndarray  # [N] V_full
    blur: np.ndarray  # [N] rounding of a value, beside offsets, in units: no two sums agree better
    blurs: np.ndarray  # [N, K] and of payoffs


def raw(games: em.Game, precision: float = np.inf) -> Raw:
    """precision: of a quantal user; infinite for a rational one."""
    p, u, U = arrays_of(games)
    m, g, G = p.sum(-1), np.einsum("nxby,nay->nxba", p, u), np.einsum("nxby,nkay->nkxba", p, U)
    D, E = differences(p, u), differences(p[:, None], U)
    likely = most_likely(D, m.sum(2) / (np.e * precision))
    scale, stakes = unit(D, likely), unit(E, likely[:, None])
    none, full = g.sum(2).max(-1).sum(-1), g.max(-1).sum((1, 2))
    scale, stakes = np.where(scale > 0, scale, 1), np.where(stakes > 0, stakes, 1)
    blur = ROUNDING * (p.sum((1, 2)) * abs(u).max(1)).sum(-1) / scale
    blurs = ROUNDING * (p.sum((1, 2))[:, None] * abs(U).max(2)).sum(-1) / stakes
    return Raw(m, g, G, D, E, scale, stakes, none, full, blur, blurs)


def differences(p: np.ndarray, utility: np.ndarray) -> np.ndarray:
    """[..., XA, XB, A, A] sum_y p (u(a, y) - u(c, y)), 0 where it is rounding of what is summed."""
    first, second = utility[..., :, None, :], utility[..., None, :, :]
    total = np.einsum("...xby,...acy->...xbac", p, first - second)
    summed = np.einsum("...xby,...acy->...xbac", p, abs(first) + abs(second))
    return np.where(abs(total) <= ROUNDING * summed, 0, total)


def most_likely(D: np.ndarray, forgone: np.ndarray) -> np.ndarray:
    """[N, XA, XB, A] the largest probability with which the user can be made to take each action in a cell.

    forgone: [N, XA] what the user gives up at most by taking one action.
    """
    ahead = np.maximum(D, 0)
    gains = ahead.sum(2, keepdims=True) + forgone[..., None, None, None]
    losses = ahead.swapaxes(-1, -2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(losses > gains, gains / losses, 1).min(-1)


def unit(differing: np.ndarray, likely: np.ndarray) -> np.ndarray:
    """[...] how much an expectation can vary if no action is taken with more than these probabilities; what it is worth
    to choose the action where that is nothing. differing: [..., XA, XB, A, A], likely: [..., XA, XB, A]."""
    likely = np.broadcast_to(likely, differing.shape[:-1])
    origin = likely.argmax(-1)[..., None, None]
    payoff = np.take_along_axis(differing, origin, -1)[..., 0]  # counted from an action that is always possible
    least, most = filled(payoff, likely), -filled(-payoff, likely)
    dictated = np.ptp(payoff, axis=-1).sum((-2, -1))
    return np.where(most - least > 1e-30 * dictated, most - least, dictated)


def filled(payoff: np.ndarray, likely: np.ndarray) -> np.ndarray:
    """The least expectation: each cell's lowest payoffs first, as far as `likely` lets them be taken."""
    order = payoff.argsort(-1)
    total, left = np.zeros(payoff.shape[:-1]), np.ones(payoff.shape[:-1])
    for rank in np.moveaxis(order, -1, 0)[..., None]:
        taken = np.minimum(np.take_along_axis(likely, rank, -1)[..., 0], left)
        total, left = total + taken * np.take_along_axis(payoff, rank, -1)[..., 0], left - taken
    return total.sum((-2, -1))


# ties and what is played


def best(ahead: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
    """[..., A] which actions are as good as every other one (of `among`). ahead: [..., A, A]."""
    behind = ahead.swapaxes(-1, -2)
    good = behind - ahead <= TIE * (behind + ahead)
    return good.all(-1) if among is None else among & (good | ~among[..., None, :]).all(-1)


def response_of(user: em.RationalUser, ahead: np.ndarray, favour: np.ndarray) -> np.ndarray:
    """[..., A] what a rational user plays; favour: `ahead` of the agent for whom ties are broken."""
    tied = best(ahead)
    if user.ties == "uniform":
        return tied / tied.sum(-1, keepdims=True)
    if user.ties == "agents":
        tied = best(favour, tied)
    A = tied.shape[-1]
    at = A - 1 - tied[..., ::-1].argmax(-1) if user.ties == "highest" else tied.argmax(-1)
    return np.eye(A)[at]


def informed_response(r: Raw, user, agent: int) -> np.ndarray:
    """[N, XA, XB, A] what the user plays when x_B is revealed, ties as `agent` would have them."""
    if isinstance(user, em.RationalUser):
        return response_of(user, np.maximum(r.D, 0), np.maximum(r.E[:, agent], 0))
    means = r.g / np.where(r.m > 0, r.m, 1)[..., None]
    weights = np.exp(float(user.precision) * (means - means.max(-1, keepdims=True)))
    return weights / weights.sum(-1, keepdims=True)


def informed_payoffs(r: Raw, user) -> tuple[np.ndarray, np.ndarray]:
    """V_full [N] under the user's own response rule, and what it pays the agents [N, K]."""
    responses = [informed_response(r, user, k) for k in range(r.G.shape[1])]
    paid = np.stack([(q * own).sum((1, 2, 3)) for q, own in zip(responses, r.G.swapaxes(0, 1), strict=True)], 1)
    return (responses[0] * r.g).sum((1, 2, 3)), paid


class Selected(NamedTuple):
    """Of schemes [N, K, XB, M] in Selection with a rational user.

    value:   [N, K] the user's value of each agent
    payoffs: [N, K, K] of agent i when j is picked, [n, j, i]
    forgone: [N] what the user may miss, of the best actions and of the best agent, by counting what is close as tied
    """

    value: np.ndarray
    payoffs: np.ndarray
    forgone: np.ndarray


def selected(r: Raw, schemes: np.ndarray, user: em.RationalUser) -> Selected:
    ahead = np.einsum("nkbs,nxbac->nkxsac", schemes, np.maximum(r.D, 0))
    favour = np.einsum("nkbs,nkxbac->nkxsac", schemes, np.maximum(r.E, 0))
    response = response_of(user, ahead, favour)
    behind = (ahead.swapaxes(-1, -2) - ahead).max(-1)  # by how much each action falls short of the best
    forgone = (response * behind).sum((2, 3, 4)).max(1)
    played = np.einsum("nkxsa,nkbs->nkxba", response, schemes)
    value, payoffs = np.einsum("nkxba,nxba->nk", played, r.g), np.einsum("njxba,nixba->nji", played, r.G)
    return Selected(value, payoffs, forgone + VALUE * r.scale)


# linprog


def linprog_worst_case(m, g, G, D, floors, scale: float, stakes) -> float:
    """What linprog's multipliers prove of the least user value of a distribution that pays the floors and that the
    user obeys, up to ties; +inf if there is none. Units: those of the user and the agents; an obedience constraint
    has its own."""
    (XA, XB, A), K = g.shape, len(G)
    origin = g.argmax(-1)[..., None]
    own = (g - np.take_along_axis(g, origin, -1)) / scale
    zero = np.take_along_axis(G, np.broadcast_to(origin, (K, XA, XB, 1)), -1)
    rows, least = list((zero - G) / stakes[:, None, None, None]), list((zero.sum((1, 2, 3)) - floors) / stakes)
    eased = np.maximum(D, 0) * (1 + TIE) - np.maximum(-D, 0) * (1 - TIE)
    for xa in range(XA):
        for a in range(A):
            for c in range(A):
                size = abs(eased[xa, :, a, c]).max()
                if size > 0:
                    row = np.zeros((XA, XB, A))
                    row[xa, :, a] = -eased[xa, :, a, c] / size
                    rows.append(row)
                    least.append(0.0)
    rows, least = np.array(rows), np.array(least)
    lowered = least + np.pad(np.full(K, VALUE), (0, len(least) - K))  # lest it be infeasible
    sums = np.kron(np.eye(XA * XB), np.ones(A))
    tight = {"primal_feasibility_tolerance": 1e-9, "dual_feasibility_tolerance": 1e-9}
    for options in (tight, {**tight, "presolve": False}):
        found = linprog(
            own.ravel(), rows.reshape(len(rows), -1), lowered, A_eq=sums, b_eq=np.ones(XA * XB), options=options
        )
        if found.status == 0:
            price = np.maximum(-found.ineqlin.marginals, 0)
            proved = (own + np.tensordot(price, rows, 1)).min(-1).sum() - price @ least
            return float(g.max(-1).sum() + scale * proved)
    return np.inf if found.status == 2 else np.nan


def worth_of_tolerances(g, own, D, at_least: float) -> float:
    """What one agent with one scheme gains at most, by linprog, if the user takes actions for best that fall short by
    the tie tolerance, and is content with a little less than `at_least` instead of a little more: agents who are worth
    the same within VALUE are equal. g, own [XA, XB, A] in units, D in the unit of g."""
    (XA, XB, A), values = g.shape, []
    advices = list(itertools.product(range(A), repeat=XA))
    user, paid = (np.array([sum(t[x, :, r[x]] for x in range(XA)) for r in advices]).T for t in (g, own))
    sums = np.kron(np.eye(XB), np.ones(len(advices)))
    most = g.max(-1).sum()
    for ease, floor in ((0.0, min(at_least + 5 * VALUE, most - VALUE / 4)), (TIE, min(at_least, most) - 2 * VALUE)):
        eased = np.maximum(D, 0) * (1 + ease) - np.maximum(-D, 0) * (1 - ease)
        rows, least = [-user], [-floor]
        for (k, r), x, c in itertools.product(enumerate(advices), range(XA), range(A)):
            size = abs(eased[x, :, r[x], c]).max()
            if size > 0:
                row = np.zeros(user.shape)
                row[:, k] = -eased[x, :, r[x], c] / size
                rows.append(row)
                least.append(0.0)
        tight = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
        found = linprog(-paid.ravel(), np.array(rows).reshape(len(rows), -1), least, sums, np.ones(XB), options=tight)
        values.append(-found.fun if found.status == 0 else np.nan)
    return values[1] - values[0]
