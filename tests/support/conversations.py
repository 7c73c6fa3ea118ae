"""Payoffs of every protocol by plain recursion over what was said: nothing here knows how the package counts.

`payoffs` is of conversations, `pooled` of those of one round. A sampled conversation pays the same on average.

A history is a tuple of rounds, a round (messages, replies), each a tuple with one entry an agent. The two functions
that look up a row of a rule are written from the docstring of `emalign_jax/users/conversation_tree.py`.
"""

import itertools
from typing import NamedTuple

import numpy as np

import emalign_jax as em


class Shape(NamedTuple):
    R: int
    M: int
    Q: int
    to: str = "each"

    @property
    def protocol(self):
        return em.Conversation(self.R, self.Q, self.to)


def rows(shape, XB):
    return XB * sum((shape.M * shape.Q) ** r for r in range(shape.R))


def row(shape, xb, own):
    """The row of agent i's rule that is used at xb after its own history ((s, q), ...) of messages and replies."""
    H = sum((shape.M * shape.Q) ** r for r in range(shape.R))
    history = 0
    for s, q in own:
        history = (history * shape.M + s) * shape.Q + q
    return xb * H + sum((shape.M * shape.Q) ** r for r in range(len(own))) + history


def reply_rows(shape, K):
    """{(history, messages): row of a given reply rule}, and the joint replies in the order of its columns."""
    messages, replies = list(itertools.product(range(shape.M), repeat=K)), joint_replies(shape, K)
    where, histories, first = {}, [()], 0
    for _ in range(shape.R - 1):
        for number, history in enumerate(histories):
            for n, said in enumerate(messages):
                where[history, said] = first + number * len(messages) + n
        first += len(histories) * len(messages)
        histories = [(*h, (s, q)) for h in histories for s in messages for q in replies]
    return where, replies


def joint_replies(shape, K):
    """What each of the K agents hears."""
    if shape.to == "all":
        return [(q,) * K for q in range(shape.Q)]
    return list(itertools.product(range(shape.Q), repeat=K))


def choice(user, values, favour):
    """Probabilities of options of these values to the user, and to whom ties go (section 3 of docs/model.md)."""
    values, favour = np.array(values), np.array(favour)
    if isinstance(user, em.QuantalUser):
        weights = np.exp(float(user.precision) * (values - values.max()))
        return weights / weights.sum()
    tied = np.flatnonzero(values >= values.max() - 1e-9)
    pleasing = tied[favour[tied] >= favour[tied].max() - 1e-9][:1]
    chosen = {"uniform": tied, "lowest": tied[:1], "highest": tied[-1:], "agents": pleasing}[user.ties]
    return np.isin(np.arange(len(values)), chosen) / len(chosen)


def questions(g, most):
    """Which question each x_A asks: of most or fewer, chosen one by one; the nearest is asked."""
    XA, XB, A = g.shape
    does = [[next(a for a in range(A) if g[x, b, a] > max(g[x, b]) - 1e-9) for b in range(XB)] for x in range(XA)]
    loss = [[sum(max(g[x, b]) - g[x, b, does[c][b]] for b in range(XB)) for c in range(XA)] for x in range(XA)]
    chosen = []
    for _ in range(min(most, XA)):
        left = [sum(min(loss[x][d] for d in [*chosen, c]) for x in range(XA)) for c in range(XA)]
        chosen.append(next(c for c in range(XA) if left[c] < min(left) + 1e-9))
    nearest = [min(loss[x][c] for c in chosen) for x in range(XA)]
    return [next(k for k, c in enumerate(chosen) if loss[x][c] < nearest[x] + 1e-9) for x in range(XA)]


def reduced(game):
    """m, g, G by loops."""
    p, u, U = (np.asarray(x, float) for x in (game.prior, game.user_utility, game.agent_utilities))
    XA, XB, _ = p.shape
    g = np.array([[u @ p[x, b] for b in range(XB)] for x in range(XA)])
    G = np.array([[[V @ p[x, b] for b in range(XB)] for x in range(XA)] for V in U])
    return p.sum(-1), g, G


def actions(game, rules, shape, user, favour):
    """q(a | x_A, x_B) in a conversation with agents of these rules; ties are broken for `favour` [XA, XB, A]."""
    m, g, _ = game
    XA, XB, A = g.shape
    K = len(rules)
    fixed = isinstance(user, em.FixedReplies)
    messages, replies = list(itertools.product(range(shape.M), repeat=K)), joint_replies(shape, K)
    where = reply_rows(shape, K)[0] if fixed and user.rule == "given" else None
    asked = questions(g, shape.Q ** (shape.R - 1)) if fixed and user.rule == "questions" else range(XA)

    def user_replies(x, history, said, ways, chance):
        if not fixed:
            return choice(user, *(np.array(w) / chance for w in zip(*ways, strict=True)))
        if user.rule == "babbling":
            return np.full(len(replies), 1 / len(replies))
        if user.rule == "given":
            return np.asarray(user.given)[x, where[history, said]]
        number, digits = asked[x], []
        for _ in range(shape.R - 1):
            number, digit = divmod(number, shape.Q)
            digits.insert(0, digit)
        return np.array([float(q == (digits[len(history)],) * K) for q in replies])

    def goes_on(x, history, weight):
        """[XB, A]: P(this history of the agents' doing, what follows, a | x_B)."""
        total = np.zeros((XB, A))
        own = [tuple((s[i], q[i]) for s, q in history) for i in range(K)]
        for said in messages:
            now = np.array(weight)
            for i, b in np.ndindex(K, XB):
                now[b] *= rules[i][row(shape, b, own[i]), said[i]]
            chance = float(now @ m[x])
            if chance == 0:  # this history has probability 0, so any response will do
                total[:, 0] += now
            elif len(history) == shape.R - 1:
                acts = user.acting if fixed else user
                total += np.outer(now, choice(acts, now @ g[x] / chance, now @ favour[x] / chance))
            else:
                ways = [goes_on(x, (*history, (said, q)), now) for q in replies]
                worth = [((way * g[x]).sum(), (way * favour[x]).sum()) for way in ways]
                for share, way in zip(user_replies(x, history, said, worth, chance), ways, strict=True):
                    total += share * way
        return total

    return np.array([goes_on(x, (), np.ones(XB)) for x in range(XA)])


def payoffs(game, rules, shape, user):
    """User value and agents' payoffs; under the tie rule "agents" each payoff has ties in that agent's favour."""
    game = reduced(game)
    q = [actions(game, rules, shape, user, own) for own in (game[2] if user.favours else game[2][:1])]
    paid = [(q[i if user.favours else 0] * own).sum() for i, own in enumerate(game[2])]
    return (q[0] * game[1]).sum(), np.array(paid)


def pooled(game, schemes, user):
    return payoffs(game, schemes, Shape(1, schemes.shape[-1], 1), user)


def alone(game, rules, shape, user):
    """The user's value of a conversation with each agent alone, and what it pays all agents: [J], [J, K]."""
    game = reduced(game)
    each = [actions(game, rules[j : j + 1], shape, user, own) for j, own in enumerate(game[2])]
    return np.array([(q * game[1]).sum() for q in each]), np.array([(q * game[2]).sum((1, 2, 3)) for q in each])


def picked(values, temperature):
    """Probabilities with which the user picks agents of these values; the first of equals."""
    if not temperature:
        return 1.0 * (np.arange(len(values)) == np.argmax(values >= values.max() - 1e-9))
    weights = np.exp((values - values.max()) / temperature)
    return weights / weights.sum()


def selection(game, rules, user, temperature=0.0, shape=None):
    """The same when the user picks an agent by what it alone is worth, and then converses with it."""
    values, payoffs = alone(game, rules, shape or Shape(1, rules.shape[-1], 1), user)
    return picked(values, temperature) @ values, picked(values, temperature) @ payoffs


def comparison(game, schemes, user, compared, temperature=0.0):
    """The same when the user picks among so many of the agents, each subset as likely."""
    values, payoffs = alone(game, schemes, Shape(1, schemes.shape[-1], 1), user)
    chosen, subsets = np.zeros(len(values)), list(itertools.combinations(range(len(values)), compared))
    for subset in map(list, subsets):
        chosen[subset] += picked(values[subset], temperature) / len(subsets)
    return chosen @ values, chosen @ payoffs


def words(shape, rule, XB):
    """The distribution over an agent's words of R messages if there is one reply only (Q = 1): [XB, M^R]."""
    spoken = list(itertools.product(range(shape.M), repeat=shape.R))
    chance = np.ones((XB, len(spoken)))
    for b, (n, word) in itertools.product(range(XB), enumerate(spoken)):
        for r, s in enumerate(word):
            chance[b, n] *= rule[row(shape, b, [(t, 0) for t in word[:r]]), s]
    return chance
