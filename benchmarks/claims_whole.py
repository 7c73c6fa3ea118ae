"""Games of whole numbers, whose payoffs are computed as fractions, by brute force, for every profile of pure schemes.

Two agents with as many messages as x_B. Nothing here is known of tolerances: ties are ties.
"""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import NamedTuple

import jax
import numpy as np
from claims_base import Claim, raw

import emalign_jax as em

DOUBLE, SINGLE = 1e-9, 1e-5  # of a unit: payoffs in float64 and float32
TIES = "agents", "lowest", "highest", "uniform"


class Exact(NamedTuple):
    """One game by its totals, in units of 1 / `total`: g [XA][XB][A] and G [K][XA][XB][A] are whole numbers."""

    g: list
    G: list
    total: int


def exact_game(weights, user, agents) -> Exact:
    """weights [XA, XB, Y], user [A, Y], agents [K, A, Y]: arrays of whole numbers; the prior is weights / their sum."""
    g = np.einsum("xby,ay->xba", weights, user)
    return Exact(g.tolist(), np.einsum("xby,kay->kxba", weights, agents).tolist(), int(weights.sum()))


def played(ties: str, user, own):
    """{action: probability} by the tie rule: totals [A] of the user, and of the agent for whom ties are broken."""
    most = max(user)
    tied = [a for a, x in enumerate(user) if x == most]
    if ties == "uniform":
        return {a: Fraction(1, len(tied)) for a in tied}
    if ties == "agents":
        tied = [a for a in tied if own[a] == max(own[c] for c in tied)]
    return {tied[-1] if ties == "highest" else tied[0]: Fraction(1)}


def told(game: Exact, cells, ties: str):
    """What the user gets, and each agent i if ties are broken for j ([j][i]), once x_B is known to be in `cells`."""
    K, A = len(game.G), len(game.g[0][0])
    value, paid = Fraction(0), [[Fraction(0)] * K for _ in range(K)]
    for x in range(len(game.g)):
        user = [sum(game.g[x][b][a] for b in cells) for a in range(A)]
        agents = [[sum(own[x][b][a] for b in cells) for a in range(A)] for own in game.G]
        value += max(user)
        for j in range(K):
            response = played(ties, user, agents[j])
            for i in range(K):
                paid[j][i] += sum(share * agents[i][a] for a, share in response.items())
    return value, paid


def parts(scheme):
    """The cells x_B of each message that is sent."""
    return [tuple(b for b, s in enumerate(scheme) if s == message) for message in sorted(set(scheme))]


def exact_payoffs(game: Exact, protocol, ties: str):
    """{(scheme of agent 0, of agent 1): (user value, [agents' payoffs])} of all profiles of pure schemes."""
    XB, known = len(game.g[0]), {}

    def summed(cells_of_messages):
        values, tables = [], []
        for cells in cells_of_messages:
            if cells not in known:
                known[cells] = told(game, cells, ties)
            values.append(known[cells][0])
            tables.append(known[cells][1])
        table = [[sum(one[j][i] for one in tables) for i in range(2)] for j in range(2)]
        return sum(values), table

    schemes = list(itertools.product(range(XB), repeat=XB))
    out = {}
    alone = {scheme: summed(parts(scheme)) for scheme in schemes}
    for profile in itertools.product(schemes, repeat=2):
        if isinstance(protocol, em.Selection):
            values = [alone[scheme][0] for scheme in profile]
            holder = values.index(max(values))
            value, table = alone[profile[holder]]
            paid = table[holder]
        else:
            value, table = summed(parts(list(zip(*profile, strict=True))))
            paid = [table[i][i] for i in range(2)]
        out[profile] = value / game.total, [x / game.total for x in paid]
    return out


def pure(scheme, messages: int) -> np.ndarray:
    return np.eye(messages)[list(scheme)]


def whole_games(rng, count: int, features: int, actions: int, user_features: int):
    """weights [N, XA, XB, Y], user [N, A, Y], agents [N, 2, A, Y], whole numbers; ties and copies are common."""
    weights = rng.integers(0, 3, (count, user_features, features, features)) + 3 * np.eye(features, dtype=int)
    user = rng.integers(-2, 3, (count, actions, features))
    agents = rng.integers(-2, 3, (count, 2, actions, features))
    user[::3, -1] = user[::3, 0]
    agents[1::3, :, -1] = agents[1::3, :, 0]
    return weights, user, agents


def whole_claims(
    rng, count: int, *, features: int, actions: int, user_features: int, protocol, ties: str, certified: int
):
    """Yields (where, claims). certified: how many profiles of each game go to `certify`, the rest to `payoffs`."""
    weights, user, agents = whole_games(rng, count, features, actions, user_features)
    prior = weights / weights.sum((1, 2, 3), keepdims=True)
    games = em.Game(prior, user.astype(float), agents.astype(float))
    exact = [exact_payoffs(exact_game(*one), protocol, ties) for one in zip(weights, user, agents, strict=True)]
    profiles = list(exact[0])
    schemes = np.array([[pure(scheme, features) for scheme in profile] for profile in profiles])  # [P, 2, XB, M]
    values = np.array([[float(found[p][0]) for p in profiles] for found in exact])  # [N, P]
    paid = np.array([[[float(x) for x in found[p][1]] for p in profiles] for found in exact])  # [N, P, 2]
    r, rule = raw(games), em.RationalUser(ties)
    of_each = jax.tree.map(lambda x: np.asarray(x)[:, None], games)
    tag = f"{type(protocol).__name__}, whole numbers"
    for x64, allowed in ((True, DOUBLE), (False, SINGLE)):
        with jax.enable_x64(x64):
            found = em.payoffs(of_each, schemes, protocol, rule)
        name = f"{tag}: payoffs, {'float64' if x64 else 'float32'}"
        off = abs(np.asarray(found.user, np.float64) - values) / r.scale[:, None]
        own = (abs(np.asarray(found.agents, np.float64) - paid) / r.stakes[:, None]).max(-1)
        yield ties, [Claim(name, -np.maximum(off, own).max(1), allowed)]
    some = np.sort(rng.permutation(len(profiles))[:certified])
    certificate = em.certify(of_each, schemes[some], protocol, rule)
    off = abs(certificate.user - values[:, some]) / r.scale[:, None]
    own = abs(certificate.agents - paid[:, some]) / r.stakes[:, None, None]
    deviations = np.array([[exact_gains(found, profiles[p]) for p in some] for found in exact])  # [N, some, 2]
    upper, lower = certificate.gain_upper, certificate.gain_lower
    sound = np.where(certificate.result < em.Result.MALFORMED, 0.0, -1)
    yield (
        ties,
        [
            Claim(f"{tag}: certified", sound),
            Claim(f"{tag}: payoffs, certify", -np.maximum(off, own.max(-1)).max(1), DOUBLE),
            Claim(f"{tag}: pure deviations gain gain_upper at most", (upper - deviations).min(1) / r.stakes, DOUBLE),
            Claim(f"{tag}: 0 <= gain_lower <= gain_upper", np.minimum(lower, upper - lower), 0),
        ],
    )


def exact_gains(found, profile) -> list[float]:
    """The most that each agent gains by another pure scheme."""
    gains = []
    for i in range(2):
        present = found[profile][1][i]
        others = [paid[i] for p, (_, paid) in found.items() if p[1 - i] == profile[1 - i]]
        gains.append(float(max(others) - present))
    return gains
