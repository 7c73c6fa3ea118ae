"""An agent's best payoff against fixed replies, and its bound against a user that plans them, by LPs over fine grids of
beliefs, for two x_B. Nothing here knows how the package counts or concavifies."""

import itertools

import numpy as np
import support.conversations as brute
from scipy import optimize, sparse

import emalign_jax as em

# Beliefs on the first grid, and steps between neighbours on finer ones.
GRID, FINER, ZOOMS = 401, 40, 3


def best_against_fixed_replies(game, rules, i, shape, user):
    """The largest payoff of agent i by a rule with as many messages, found from below."""
    m, g, G = brute.reduced(game)
    K, prior = len(rules), m.sum(0)
    messages, replies = list(itertools.product(range(shape.M), repeat=K)), brute.joint_replies(shape, K)
    where = brute.reply_rows(shape, K)[0] if user.rule == "given" else None
    acting = user.acting

    def paid(own, mu):
        """What beliefs mu [N, 2] pay after the agent's own history in all rounds but the last."""
        total = np.zeros(len(mu))

        def add(x, history, weight, share):
            r = len(history)
            for said in messages:
                if said[i] != (own[r][0] if r < shape.R - 1 else 0):
                    continue
                now = weight.copy()
                for j, b in np.ndindex(K, 2):
                    if j != i:
                        heard = tuple((s[j], q[j]) for s, q in history)
                        now[:, b] *= rules[j][brute.row(shape, b, heard), said[j]]
                if r == shape.R - 1:
                    total[:] += share * at_end(x, now)
                    continue
                for n, q in enumerate(replies):
                    chance = replied(x, history, said, n)
                    if q[i] == own[r][1] and chance > 0:
                        add(x, (*history, (said, q)), now, share * chance)

        for x in range(len(m)):
            add(x, (), mu / prior, 1.0)
        return total

    def replied(x, history, said, n):
        if user.rule == "babbling":
            return 1 / len(replies)
        if user.rule == "given":
            return float(np.asarray(user.given)[x, where[history, said], n])
        digit = x // shape.Q ** (shape.R - 2 - len(history)) % shape.Q  # "truthful"
        return float(replies[n] == (digit,) * K)

    def at_end(x, now):
        return responses_pay(acting, now @ g[x], now @ m[x], now @ G[i][x])

    own = list(itertools.product(itertools.product(range(shape.M), range(shape.Q)), repeat=shape.R - 1))
    return _largest(own, shape, prior, paid)


def responses_pay(user, total, mass, favour):
    possible = mass > 0
    value = total / np.where(possible, mass, 1)[:, None]
    if isinstance(user, em.QuantalUser):
        power = np.exp(float(user.precision) * (value - value.max(1, keepdims=True)))
        return np.where(possible, (favour * power).sum(1) / power.sum(1), 0)
    tied = value >= value.max(1, keepdims=True) - 1e-9
    return np.where(possible, np.where(tied, favour, -np.inf).max(1), 0)


def _largest(own, shape, prior, paid):
    """The LP over beliefs at each own history, on a grid that is refined about the beliefs in use."""
    mus = kept = [np.linspace(0, 1, GRID)] * len(own)
    step = 1 / (GRID - 1)
    for _ in range(ZOOMS + 1):
        value, used = _lp(own, shape, prior, paid, mus)
        finer = step / FINER
        near = np.arange(-2 * FINER, 2 * FINER + 1) * finer
        mus = [
            np.unique(np.clip(np.concatenate([mu, (mu[some, None] + near).ravel()]), 0, 1))
            for mu, some in zip(kept, used, strict=True)
        ]
        kept, step = mus, finer
    return value


def _lp(own, shape, prior, paid, mus):
    """Sequence form: a flow for each own history with a message added, which replies copy."""
    names = [(*h, s) for r in range(shape.R - 1) for h in _histories(shape, r) for s in range(shape.M)]
    flow = {name: 2 * n for n, name in enumerate(names)}
    count = 2 * len(names)
    rows, right, cost = [], [], [np.zeros(count)]

    def before(history):
        return (*history[:-1], history[-1][0]) if history else None

    for r in range(shape.R - 1):
        for h in _histories(shape, r):
            for b in range(2):
                row = {flow[(*h, s)] + b: 1.0 for s in range(shape.M)}
                if h:
                    row[flow[before(h)] + b] = -1.0
                rows.append(row)
                right.append(0.0 if h else prior[b])
    at = count
    for h, mu in zip(own, mus, strict=True):
        points = np.stack([1 - mu, mu], 1)
        cost.append(paid(h, points))
        for b in range(2):
            rows.append({at + k: x for k, x in enumerate(points[:, b])} | {flow[before(h)] + b: -1.0})
            right.append(0.0)
        at += len(mu)
    entries = [(n, k, x) for n, row in enumerate(rows) for k, x in row.items()]
    n, k, x = zip(*entries, strict=True)
    matrix = sparse.csr_array((x, (n, k)), shape=(len(rows), at))
    found = optimize.linprog(-np.concatenate(cost), A_eq=matrix, b_eq=right, method="highs")
    assert found.status == 0
    weights = np.split(found.x[count:], np.cumsum([len(mu) for mu in mus])[:-1])
    return -found.fun, [some > 1e-9 for some in weights]


def _histories(shape, r):
    return list(itertools.product(itertools.product(range(shape.M), range(shape.Q)), repeat=r))
