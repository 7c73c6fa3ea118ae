"""Check proof files about a quantal user, in interval arithmetic:  python verify_quantal.py FILE...

It needs python-flint, and verify.py beside it, and checks the files that verify.py checks as well. Every number is a
ball of FLINT's arb, which contains the number meant; `a <= b` is true only if it is true of all numbers of both balls.
So what is proved does not depend on rounding, and floats are used only to choose among bounds that are all valid.
Section numbers are those of docs/model.md. Exit code 0: all claims of all files are proved; 1: some are not.
"""

import itertools
import math
import os
import sys
from fractions import Fraction

if __package__:
    from emalign_jax.exact.proofs import verify as exact
else:  # A copy belongs to the verify.py beside it, whatever is installed, also where Python is isolated (-I).
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import verify as exact
try:
    import flint
except ImportError:  # Files about rational users need none.
    flint = None

INSTALL = "a quantal user: interval arithmetic needs python-flint: pip install 'emalign-jax[proofs]'"
# Types (x_A and joint messages of the others), times actions, times x_B, of the largest game that is checked.
MOST = 10_000
# Bits of precision: rounding is 1e-38 of a number, so that payoffs may differ by little and precisions be large.
BITS = 128
# A type whose excess is a smaller share of what a cell has room for is bounded to first order only.
NEGLIGIBLE = 0.01
# Rounds in which the weights of a cell's vertices are improved.
ROUNDS = 12


def ball(value):
    """The ball of a fraction."""
    return flint.arb(flint.fmpq(value.numerator, value.denominator))


def total(terms):
    return sum(terms, flint.arb(0))


def least(balls):
    first, *rest = balls
    for each in rest:
        first = first.min(each)
    return first


def most(balls):
    first, *rest = balls
    for each in rest:
        first = first.max(each)
    return first


class Game(exact.Game):
    """A game of Pooled with a quantal user, and a profile."""

    def __init__(self, data, schemes):
        exact.require(flint, INSTALL)
        self.sums(data)
        rule = data["rule"]
        self.precision = exact.numbers(rule["precision"])
        exact.require(set(rule) == {"precision"} and self.precision > 0, "the rule is unknown")
        exact.require(isinstance(schemes, list), "expected a scheme of distributions for each agent")
        self.schemes = self.schemes_of(schemes)
        sizes = [len(scheme[0]) for scheme in self.schemes]
        self.mass = [[sum(cell) for cell in p] for p in self.prior]
        self.chance = [sum(row[b] for row in self.mass) for b in range(self.B)]  # The prior of x_B.
        self.possible = [b for b in range(self.B) if self.chance[b]]
        types = self.X * max(math.prod(sizes) // size for size in sizes)
        exact.require(types * self.A * self.B <= MOST, "the game is too large to check")


class Payoffs:
    """What agent i gets from messages, by the belief that they lead to (section 5.3), the others' schemes fixed.

    own: the payoff counted, G[i] or the user's g. Types (x_A, joint message of the others) of equal posteriors are one.
    """

    def __init__(self, game, i, own):
        self.game, self.rate, self.actions = game, ball(game.precision), range(game.A)
        merged = {}
        for message in itertools.product(*(zip(*s, strict=True) for j, s in enumerate(game.schemes) if j != i)):
            weights = [math.prod((rows[b] for rows in message), start=Fraction(1)) for b in game.possible]
            if any(weights):
                shape = tuple(w / sum(weights) for w in weights)
                merged[shape] = merged.get(shape, 0) + sum(weights)
        self.types = []
        for (shape, size), x in itertools.product(merged.items(), range(game.X)):
            share = [size * w / game.chance[b] for w, b in zip(shape, game.possible, strict=True)]
            if any(w and game.mass[x][b] for w, b in zip(share, game.possible, strict=True)):
                mass = [ball(w * game.mass[x][b]) for w, b in zip(share, game.possible, strict=True)]
                user, goal = [
                    [[ball(w * v[x][b][a]) for w, b in zip(share, game.possible, strict=True)] for a in self.actions]
                    for v in (game.g, own)
                ]
                self.types.append((mass, user, goal))

    def prior(self, scheme):
        """For each message of a scheme the belief that it leads to, times the probability of the message."""
        for column in zip(*scheme, strict=True):
            yield [ball(column[b] * self.game.chance[b]) for b in self.game.possible]

    def paid(self, scheme):
        """The payoff of a scheme (a ball)."""
        return total(self.at(belief).paid for belief in self.prior(scheme))

    def at(self, belief):
        return Belief(self, belief)


class Belief:
    """The responses and payoffs at a belief over the x_B that are possible; any multiple of a distribution.

    paid: phi, summed over types. types[t]: None where the type is impossible, else `Response`.
    """

    def __init__(self, payoffs, shares):
        self.shares = shares
        self.types = [Response(payoffs, shares, *each) for each in payoffs.types]
        self.types = [None if each.mass == 0 else each for each in self.types]
        self.paid = total(each.mass * each.mean for each in self.types if each)


class Response:
    """Of one type at one belief: its mass, the agent's payoffs `pays` of the actions, the user's response `chance`,
    `odds[a][b]` of b against a, and the mean payoff."""

    def __init__(self, payoffs, shares, mass, user, goal):
        def mixed(numbers):
            return total(s * v for s, v in zip(shares, numbers, strict=True))

        self.mass = mixed(mass)
        if self.mass == 0:  # Exactly: the posterior is undefined.
            return
        self.values, self.pays = ([mixed(row) / self.mass for row in rows] for rows in (user, goal))
        top = max(self.values, key=float)
        powers = [((value - top) * payoffs.rate).exp() for value in self.values]
        self.odds = [[other / own for other in powers] for own in powers]
        self.chance = [1 / total(row) for row in self.odds]
        self.mean = total(q * w for q, w in zip(self.chance, self.pays, strict=True))


class Excess:
    """By how much phi_t may exceed its interpolation from the vertices of a cell, for one type (section 5.3).

    at:    numbers of the vertices where the type is possible; the others do not count for it
    first: what it may be at each of them (mass included), first order
    """

    def __init__(self, payoffs, responses):
        self.rate, self.actions = payoffs.rate, payoffs.actions
        self.at = [v for v, each in enumerate(responses) if each]
        self.some = [each for each in responses if each]
        chances = [[[each.odds[a][b] for each in self.some] for b in self.actions] for a in self.actions]
        self.high = [1 / total(least(x) for x in row) for row in chances]
        self.low = [1 / total(most(x) for x in row) for row in chances]
        self.first = [each.mass * self._room(each) for each in self.some]

    def _room(self, response):
        """How far the mean of the payoffs at a vertex may exceed its value there, for any response on the cell."""
        rooms = []
        for high, low, q, pays in zip(self.high, self.low, response.chance, response.pays, strict=True):
            apart = pays - response.mean
            rooms.append(most([(high - q) * apart, (low - q) * apart]))
        return total(rooms)

    def edges(self):
        """[(i, j, second, third)]: bounds of the excess on the edge of vertices i and j, per x_i x_j / (x_i + x_j)."""
        A, L, some = self.actions, self.rate, self.some
        pays = [[[w.pays[a] - w.pays[b] for w in some] for b in A] for a in A]
        # By how much action a may pay less than the mean response.
        short = [total(self.high[b] * most([flint.arb(0), *pays[b][a]]) for b in A if b != a) for a in A]
        ends = list(itertools.combinations(range(len(some)), 2))
        steps = [
            ([p - q for p, q in zip(some[i].values, some[j].values, strict=True)],
             [p - q for p, q in zip(some[i].pays, some[j].pays, strict=True)])
            for i, j in ends
        ]  # fmt: skip
        pairs = list(itertools.combinations(A, 2))
        squares = [sum(float(step[k][a] - step[k][b]) ** 2 for step in steps for a, b in pairs) for k in (0, 1)]
        ratio = flint.arb(math.sqrt(squares[1] / squares[0]) if min(squares) > 0 else 1)  # Any positive number will do.
        second = [flint.arb(0) for _ in ends]
        third = [most(y) - least(y) for _, y in steps]
        for a, b in pairs:
            above = least([self.high[a] * self.high[b], flint.arb(0.25)])
            below = self.low[a] * self.low[b]
            half, top, bottom = (above - below) / 2, most(pays[a][b]), least(pays[a][b])
            reach = most([above * top, below * top]) - least([above * bottom, below * bottom])
            of_values = L * above * (short[a] + short[b]) + half * ratio
            of_pays, of_both = half / ratio, above + below
            for e, (x, y) in enumerate(steps):
                x, y = x[a] - x[b], y[a] - y[b]
                second[e] += L * (of_values * x * x + of_pays * y * y - of_both * x * y)
                third[e] += L * abs(x) * reach
        zero = flint.arb(0)
        return [(i, j, most([q, zero]) / 2, c) for (i, j), q, c in zip(ends, second, third, strict=True)]


class Cell:
    """A simplex of beliefs, by its vertices; `closed`: whether no belief in it pays more than its price."""

    def __init__(self, payoffs, price, vertices):
        self.room = [total(p * s for p, s in zip(price, v.shares, strict=True)) - v.paid for v in vertices]
        self.excesses, self.edges, self.closed = [], {}, all(room >= 0 for room in self.room)
        if not self.closed:
            return
        for responses in zip(*(v.types for v in vertices), strict=True):
            if sum(each is not None for each in responses) > 1:
                self.excesses.append(Excess(payoffs, responses))
        self.floats = [max(float(room), 1e-300) for room in self.room]
        self.closed = self._holds([{} for _ in self.excesses])
        if not self.closed and len(vertices) > 1:
            self.closed = self._closed_by_edges()

    def _holds(self, chosen):
        """Whether at each vertex the excess is at most the room. chosen: for each type {} (first order), or the pairs
        (bound per mass, share) by edge."""
        added = [flint.arb(0) for _ in self.room]
        for excess, shares in zip(self.excesses, chosen, strict=True):
            if shares:
                for (i, j), (bound, s) in shares.items():
                    added[excess.at[i]] += bound * s * s * excess.some[i].mass
                    added[excess.at[j]] += bound * (1 - s) * (1 - s) * excess.some[j].mass
            else:
                for v, first in zip(excess.at, excess.first, strict=True):
                    added[v] += first
        return all(a <= room for a, room in zip(added, self.room, strict=True))

    def _closed_by_edges(self):
        """Choose bounds, and the shares of each edge's ends, in floats: with weights of the vertices the best choice
        has a closed form, and the weights grow where the excess is too large."""
        smallest = NEGLIGIBLE * min(self.floats) / len(self.excesses)
        for t, excess in enumerate(self.excesses):
            if max(map(float, excess.first)) > smallest:
                self.edges[t] = self._best_edges(excess)
        plain = {t: [(*e, float(b), m, n) for e, (b, _, m, n) in edges.items()] for t, edges in self.edges.items()}
        self.weights = [1 / room for room in self.floats]
        for _ in range(ROUNDS):
            chosen, added, cost = self._choose(plain, self.weights)
            if all(a <= room for a, room in zip(added, self.floats, strict=True)):
                return self._holds(
                    [
                        {e: (self.edges[t][e][0], flint.arb(s)) for e, s in shares.items()}
                        for t, shares in chosen.items()
                    ]
                )
            now = list(zip(self.weights, added, self.floats, strict=True))
            if cost > sum(w * room for w, _, room in now):
                return False  # By duality no choice is good enough.
            self.weights = [w * (a + room) / (2 * room) for w, a, room in now]
        return False

    def _choose(self, plain, weights):
        """The best choice for these weights, what it adds at the vertices, and its cost: a lower bound for any."""
        chosen, added, cost = {}, [0.0] * len(weights), 0.0
        for t, excess in enumerate(self.excesses):
            at = excess.at
            first = [float(x) for x in excess.first]
            alone = sum(weights[v] * x for v, x in zip(at, first, strict=True))
            shares, by_edges = {}, 0.0
            for i, j, bound, m, n in plain.get(t, ()):
                x, y = weights[at[i]] * m, weights[at[j]] * n
                shares[i, j] = y / (x + y)
                by_edges += bound * x * y / (x + y)
            if not shares or alone <= by_edges:
                chosen[t], cost = {}, cost + alone
                for v, x in zip(at, first, strict=True):
                    added[v] += x
                continue
            chosen[t], cost = shares, cost + by_edges
            for i, j, bound, m, n in plain[t]:
                s = shares[i, j]
                added[at[i]] += bound * s * s * m
                added[at[j]] += bound * (1 - s) * (1 - s) * n
        return chosen, added, cost

    def _best_edges(self, excess):
        """{(i, j): (bound, second, mass of i, mass of j)}. The bound is `third` on edges of the vertices that are
        treated separately, the best set of all, and `second` on the others."""
        edges = [(i, j, second, third, float(second), float(third)) for i, j, second, third in excess.edges()]
        mass = [max(float(each.mass), 1e-300) for each in excess.some]
        even = {(i, j): mass[i] * mass[j] / (math.sqrt(mass[i]) + math.sqrt(mass[j])) ** 2 for i, j, *_ in edges}
        best, found = float("inf"), ()
        for count in range(len(mass)):
            for apart in itertools.combinations(range(len(mass)), count):
                cost = sum(even[i, j] * (c if i in apart or j in apart else q) for i, j, _, _, q, c in edges)
                if cost < best:
                    best, found = cost, apart
        return {
            (i, j): (third if i in found or j in found else second, second, mass[i], mass[j])
            for i, j, second, third, *_ in edges
        }


def divided(i, j, share, vertices, payoffs):
    """The two parts of a simplex that is divided at (1 - share) v_i + share v_j."""
    middle = payoffs.at(
        [(1 - share) * p + share * q for p, q in zip(vertices[i].shares, vertices[j].shares, strict=True)]
    )
    return [*vertices[:i], middle, *vertices[i + 1 :]], [*vertices[:j], middle, *vertices[j + 1 :]]


def whole(payoffs):
    """The simplex of all beliefs."""
    B = range(len(payoffs.game.possible))
    return [payoffs.at([flint.arb(int(b == c)) for c in B]) for b in B]


def prices(game, data):
    return [ball(p) for b, p in enumerate(exact.numbers(data, game.B)) if game.chance[b]]


def of_prior(game, price):
    return total(p * ball(game.chance[b]) for p, b in zip(price, game.possible, strict=True))


def prove_payoff(game, i, evidence):
    """An upper bound of what agent i gets from any scheme: the price of the prior, if no belief pays more than its
    price. `tree` lists the division of the simplex, first parts first: [i, j, share] divides, 0 is a leaf."""
    payoffs, price = Payoffs(game, i, game.G[i]), prices(game, evidence["price"])
    waiting = [whole(payoffs)]
    for node in evidence["tree"]:
        exact.require(waiting, "the tree is too long")
        vertices = waiting.pop()
        if type(node) is int and node == 0:
            exact.require(Cell(payoffs, price, vertices).closed, f"agent {i} may gain more on a cell of the tree")
            continue
        i_, j_, share = node
        share, among = exact.numbers(share), range(len(vertices))
        known = type(i_) is type(j_) is int and i_ in among and j_ in among and i_ != j_
        exact.require(known and 0 < share < 1, "the tree divides what is no edge")
        waiting += reversed(divided(i_, j_, ball(share), vertices, payoffs))
    exact.require(not waiting, "the tree leaves beliefs out")
    return of_prior(game, price)


def prove_gains(game, claim):
    """No agent gains more than `at_most` by another scheme, of any number of messages (section 4.1)."""
    limits = exact.numbers(claim["at_most"], game.K)
    exact.require(len(claim["evidence"]) == game.K, "expected evidence for each agent")
    for i, limit in enumerate(limits):
        gain = prove_payoff(game, i, claim["evidence"][i]) - Payoffs(game, i, game.G[i]).paid(game.schemes[i])
        exact.require(gain <= ball(limit), f"the evidence bounds the gain of agent {i} by {float(gain.upper()):.12g}")
    user = Payoffs(game, 0, game.g).paid(game.schemes[0])
    return f"user value {float(user):.9g}; no agent gains more than {exact.said(max(limits), up=True)} by deviating"


Game.claims = {"gains": prove_gains}


def verify(text):
    """What a proof file proves, a line a claim; `exact.Unproved` if anything in it is not proved."""
    if flint is None:
        return exact.verify(text, Game)
    with flint.ctx.workprec(BITS):
        return exact.verify(text, Game)


if __name__ == "__main__":
    sys.exit(exact.main(sys.argv[1:], verify))
