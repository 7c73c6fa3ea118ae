"""Check proof files of emalign_jax with nothing but Python's standard library:  python verify.py FILE...

A proof file holds a game, claims about it, and multipliers that prove them, as fractions. All is computed again, in
rational arithmetic; any multipliers are valid by weak duality, and the digest only tells files that were changed.
Sections are those of docs/model.md. Exit code 0: all claims of all files are proved; 1: some are not.
"""

import collections
import functools
import hashlib
import itertools
import json
import math
import re
import sys
from decimal import Context
from fractions import Fraction


class Unproved(Exception):
    """A claim does not follow from its evidence, or a file is malformed; the message says which and why."""


def require(holds, why):
    if not holds:
        raise Unproved(why)


def numbers(data, *shape):
    """Nested lists of fractions of this shape, None standing for any length above 0."""
    if not shape:
        require(isinstance(data, str) and re.fullmatch(r"-?\d{1,4000}(/\d{1,4000})?", data), "expected a fraction")
        return Fraction(data)
    require(isinstance(data, list) and len(data) == (shape[0] or len(data)) > 0, f"expected {shape[0] or 'some'} items")
    return [numbers(each, *shape[1:]) for each in data]


def said(value, up=False):
    """Nine digits, rounded to the side on which what is said stays true."""
    return f"{Context(9, 'ROUND_CEILING' if up else 'ROUND_FLOOR').divide(value.numerator, value.denominator):g}"


class Game:
    """Sums of section 1.1: g[x][b][a] of the user, G[i][x][b][a] of the agents, probability times payoff."""

    def sums(self, data):
        self.X, self.B, self.Y = len(data["prior"]), len(data["prior"][0]), len(data["prior"][0][0])
        prior = self.prior = numbers(data["prior"], self.X, self.B, self.Y)
        self.u, self.A = numbers(data["user"], None, self.Y), len(data["user"])
        self.U, self.K = numbers(data["agents"], None, self.A, self.Y), len(data["agents"])
        self.cells = list(itertools.product(range(self.X), range(self.B)))
        parts = [p for x, b in self.cells for p in prior[x][b]]
        require(min(parts) >= 0 and abs(sum(parts) - 1) < Fraction(1, 10**6), "the prior is no distribution")
        prior = [[{y: p for y, p in enumerate(cell) if p} for cell in row] for row in prior]
        self.g, *self.G = [[[[dot(cell, v) for v in own] for cell in p] for p in prior] for own in (self.u, *self.U)]

    def schemes_of(self, data):
        schemes = [numbers(scheme, self.B, len(scheme[0])) for scheme in data]
        proper = len(schemes) == self.K and all(min(row) >= 0 and sum(row) > 0 for s in schemes for row in s)
        require(proper, "expected a scheme of distributions for each agent")
        return [[[p / sum(row) for p in row] for row in s] for s in schemes]  # Floats need not sum to 1 exactly.

    def __init__(self, data, schemes):
        self.sums(data)
        self.ties, self.compared = data["rule"]["ties"], data["rule"]["compared"]
        self.tolerance, self.value_tie = (numbers(data["rule"][key]) for key in ("tie_tolerance", "value_tie"))
        known = self.ties in ("agents", "lowest", "highest", "uniform") and type(self.compared) is int
        known = known and 1 <= self.compared <= self.K and 0 <= self.tolerance < 1 and self.value_tie >= 0
        require(known and self.A**self.X * self.B <= 100_000, "the rule is unknown, or the game too large to check")
        self.above = functools.cache(self._above)
        chosen = [math.comb(self.K - 1 - r, self.compared - 1) for r in range(self.K)]  # Section 2.3.
        self.chance = [Fraction(n, sum(chosen)) for n in chosen]
        # An action is never played if one that the rule takes before it is worse in no cell.
        sign, A = {"lowest": 1, "highest": -1}.get(self.ties, 0), range(self.A)
        played = [[a for a in A if all(sign * (a - c) <= 0 or any(p[c] < p[a] for p in v) for c in A)] for v in self.g]
        self.recommendations = list(itertools.product(*played))
        self.silent = sum(max(map(sum, zip(*cells, strict=True))) for cells in self.g)
        self.full = sum(max(self.g[x][b]) for x, b in self.cells)
        reveal = [[Fraction(1) if b == s else 0 for s in range(self.B)] for b in range(self.B)]  # Section 6.1.
        self.informed = [self.worth(self.outcome(reveal, i), own) for i, own in enumerate(self.G)]
        self.profile = Profile(self, schemes) if schemes else None

    def _above(self, who, x, a, c, tolerance):
        """What action a pays an agent (-1: the user) more than c, plus `tolerance` times what they differ by."""
        steps = [cell[a] - cell[c] for cell in (self.g if who < 0 else self.G[who])[x]]
        return [step + tolerance * abs(step) for step in steps]

    def respond(self, x, message, favoured):
        """The actions of type x after a message, each with the same probability (sections 3.1 and 4.4)."""
        tied = range(self.A)
        for who in (-1, favoured) if self.ties == "agents" else (-1,):  # As good as any, for the user first.
            tied = [a for a in tied if all(dot(message, self.above(who, x, a, c, self.tolerance)) >= 0 for c in tied)]
        return tied if self.ties == "uniform" else tied[-1:] if self.ties == "highest" else tied[:1]

    def outcome(self, scheme, favoured):
        """The distribution q[x][b][a] of the action under one agent's scheme."""
        q = [[[Fraction(0)] * self.A for _ in range(self.B)] for _ in range(self.X)]
        for x, weights in itertools.product(range(self.X), zip(*scheme, strict=True)):
            message = {b: p for b, p in enumerate(weights) if p}
            for b, a in itertools.product(message, actions := self.respond(x, message, favoured)):
                q[x][b][a] += message[b] / len(actions)
        return q

    def worth(self, q, payoff):
        return sum(dot(q[x][b], payoff[x][b]) for x, b in self.cells)

    def added(self, rows, tolerance):
        """{key: for each x_B what obedience adds} of rows (key, type, action, other action, multiplier)."""
        found = collections.defaultdict(lambda: [Fraction(0)] * self.B)
        for key, x, a, c, multiplier in rows:
            price = numbers(multiplier)
            require(price >= 0, "a multiplier of obedience is negative")
            steps = zip(found[tuple(key)], self.above(-1, x, a, c, tolerance), strict=True)
            found[tuple(key)] = [value + price * step for value, step in steps]
        return found

    def largest(self, payoff, evidence, low, high, tolerance):
        """A bound of sum z payoff over obedient z worth low (None: any) to high: multipliers add nothing negative."""
        price = numbers(evidence["value_price"])  # Positive: of the lower limit; negative: of the upper one.
        added = self.added(((r, x, r[x], c, price) for r, x, c, price in evidence["obedience"]), tolerance)
        bound = -price * (low if price > 0 else high) if price else Fraction(0)
        for b in range(self.B):
            paid = [[p + price * v for p, v in zip(payoff[x][b], self.g[x][b], strict=True)] for x in range(self.X)]
            bound += max(sum((paid[x][a] for x, a in enumerate(r)), added[r][b]) for r in self.recommendations)
        return bound

    def least(self, weights, obedience, shortfall):
        """Section 6.3: every profile that pays each agent its informed payoff less `shortfall` is worth this."""
        weights, added = numbers(weights, self.K), self.added(((k, *k, *row) for k, *row in obedience), self.tolerance)
        require(min(weights) >= 0, "a weight is negative")
        bound = dot(weights, [paid - e for paid, e in zip(self.informed, shortfall, strict=True)])
        for x, b in self.cells:
            paid = [dot(weights, [own[x][b][a] for own in self.G]) + added[x, a][b] for a in range(self.A)]
            bound += min(value - p for value, p in zip(self.g[x][b], paid, strict=True))
        return bound


def dot(a, b):
    """sum_k a[k] b[k], of lists or {k: a[k]}. To reduce the sum once is faster than to reduce each of its terms."""
    pairs = ((p, b[k]) for k, p in a.items()) if isinstance(a, dict) else zip(a, b, strict=True)
    parts = [(p.numerator * v.numerator, p.denominator * v.denominator) for p, v in pairs if p and v]
    common = math.lcm(*[q for _, q in parts])
    return Fraction(sum([p * (common // q) for p, q in parts]), common)


class Profile:
    """What schemes lead to: values[j] and payoffs[i][j] under agent j's scheme, and the agents by rank."""

    def __init__(self, game, data):
        self.game = game
        outcomes = [game.outcome(scheme, j) for j, scheme in enumerate(game.schemes_of(data))]
        self.values = [game.worth(q, game.g) for q in outcomes]
        self.payoffs = [[game.worth(q, own) for q in outcomes] for own in game.G]
        ordered = sorted(range(game.K), key=lambda j: -self.values[j])
        self.rivals = [[j for j in ordered if j != i] for i in range(game.K)]
        ranking = []
        while left := set(ordered) - set(ranking):  # Values within `value_tie` are equal: the lowest index is taken.
            most = max(self.values[j] for j in left) - game.value_tie
            ranking.append(min(j for j in left if self.values[j] >= most))
        self.user = dot(game.chance, [self.values[j] for j in ranking])
        self.agents = [dot(game.chance, [own[j] for j in ranking]) for own in self.payoffs]
        self.shortfall = [max(Fraction(0), most - paid) for most, paid in zip(game.informed, self.agents, strict=True)]

    def intervals(self, i):
        """For each rank the least and the largest value of agent i's schemes that can have it; None: no limit. A rival
        among the r + 1 best stands behind; where one of a lower index must, i is better by the tie (section 12)."""
        tie, rivals = self.game.value_tie, self.rivals[i]
        for r in range(self.game.K):
            low, high = None, self.values[rivals[r - 1]] + tie if r else None
            if r < len(rivals):
                least = self.values[rivals[r]]
                later = [self.values[j] for j in rivals if j > i and self.values[j] >= least]
                behind = sum(self.values[j] >= least for j in rivals) - r
                low = least + (tie if len(later) < behind and max(later, default=least) <= least + tie else -tie)
            yield low, high

    def most(self, i, evidence):
        """An upper bound of what agent i gets from any scheme (sections 5.1 and 5.7): the largest over its ranks."""
        game, bounds = self.game, []
        for r, (low, high) in enumerate(self.intervals(i)):
            bound = game.chance[r] and game.chance[r] * game.largest(game.G[i], evidence[r], low, high, game.tolerance)
            # Rivals of about equal values may stand in any order (of equal ones by index): the best one for i is taken.
            chances, group = game.chance[:r] + game.chance[r + 1 :], []
            for k, j in enumerate(self.rivals[i], 1):
                group.append(self.payoffs[i][j])
                if all(self.values[j] - self.values[after] > game.value_tie for after in self.rivals[i][k : k + 1]):
                    same = self.values[self.rivals[i][k - len(group)]] == self.values[j]
                    bound += dot(chances[k - len(group) : k], group if same else sorted(group, reverse=True))
                    group = []
            bounds.append(bound)
        return max(bounds)


def prove_gains(game, claim):
    """No agent gains more than `at_most` by another scheme, of any number of messages (section 4.1)."""
    profile, limits = game.profile, numbers(claim["at_most"], game.K)
    for i, limit in enumerate(limits):
        gain = profile.most(i, claim["evidence"][i]) - profile.agents[i]
        require(gain <= limit, f"the evidence bounds the gain of agent {i} by {float(gain):.12g}")
    return f"user value {float(profile.user):.9g}; no agent gains more than {said(max(limits), up=True)} by deviating"


def prove_least_value(game, claim):
    """The least user value where agents get as much as here, or by revelation less some gains (sections 6.2, 6.3)."""
    require(game.compared == game.K, "full revelation need not be heard")
    if claim["kind"] == "guarantee":
        shortfall, most, who = game.profile.shortfall, game.full, "that pay the agents as much"
    else:
        shortfall, most = numbers(claim["gains"], game.K), game.full - 2 * game.value_tie
        require(min(shortfall) >= 0, "a gain is negative")
        who = f"with gains of at most {', '.join(said(gain) for gain in shortfall)}"
    bound, limit = min(most, game.least(claim["weights"], claim["obedience"], shortfall)), numbers(claim["at_least"])
    require(bound >= limit, f"the evidence proves {float(bound):.12g}")
    return f"profiles {who} are worth at least {said(limit)}; V_full is {float(game.full):.9g}"


def prove_alignment(game, claim):
    """The least error, in the sup norm or least squares, of fitting the user's utility by the agents' (section 7)."""
    weights, d = numbers(claim["weights"], game.K), numbers(claim["dual"], game.A, game.Y)
    offset, low, high = numbers(claim["offset"], game.Y), numbers(claim["at_least"]), numbers(claim["at_most"])
    sort, kind, norm = words = claim["weights_kind"], claim["offset_kind"], claim["norm"]
    require(words in itertools.product(("simplex", "cone"), ("none", "constant", "per_state"), ("sup", "l2")), "no fit")
    require(min(weights) >= 0 and (sort == "cone" or sum(weights) == 1), "weights of another kind")
    require(not any(offset) or kind == "per_state" or (kind == "constant" and len(set(offset)) == 1), "another offset")
    columns, flat = [sum(column) for column in zip(*d, strict=True)], [abs(p) for row in d for p in row]
    orthogonal = kind == "none" or not any(columns) or (kind == "constant" and not sum(columns))
    require(orthogonal and (sum(flat) if norm == "sup" else dot(flat, flat)) <= 1, "the dual is not admissible")
    cells = itertools.product(range(game.A), range(game.Y))
    rest = [abs(dot(weights, [own[a][y] for own in game.U]) + offset[y] - game.u[a][y]) for a, y in cells]
    require(max(rest) <= high if norm == "sup" else dot(rest, rest) <= high * abs(high), "the weights leave more error")
    user, *along = [sum(map(dot, d, own)) for own in (game.u, *game.U)]
    require(sort == "simplex" or min(along) >= 0, "the dual does not bound fits on the cone")
    require((min(along) if sort == "simplex" else 0) - user >= low, "the dual proves a smaller error")
    return f"the least error ({sort}, offset {kind}, {norm}) is between {said(low)} and {said(high, up=True)}"


def prove_equilibrium_set(game, claim):
    """No pure equilibrium of Selection, exact ties as recommended, is worth less than `at_least` (section 6.5): chords
    of the f_i, from obedient distributions, exceed a line above M at both ends of intervals from V_none on."""
    require(game.compared == game.K >= 2 and game.ties == "agents", "this is about Selection, K >= 2, ties for agents")
    values, limit = numbers(claim["values"], None), numbers(claim["at_least"])
    require(values == sorted(values) and values[0] <= game.silent and values[-1] >= limit, "the intervals leave a gap")
    pay = [[[sum(own[x][b][a] for own in game.G) for a in range(game.A)] for b in range(game.B)] for x in range(game.X)]
    rows = zip(values, claim["distributions"], strict=True)
    most = [sum(obedient(game, i, value, row[i]) for i in range(game.K)) for value, row in rows]
    for k, (evidence, (a, b)) in enumerate(zip(claim["evidence"], itertools.pairwise(values), strict=True)):
        line, price = game.largest(pay, evidence, a, a, Fraction(0)), numbers(evidence["value_price"])
        require(most[k] > line and most[k + 1] > line - price * (b - a), f"the gap may be 0 above {float(a):.9g}")
    return f"where only exact ties are ties, every pure equilibrium is worth at least {said(limit)}"


def obedient(game, i, value, data):
    """What agent i gets from an obedient distribution, of rows [recommendation, probabilities], worth `value`."""
    z = {tuple(advice): numbers(row, game.B) for advice, row in data}
    require(len(z) == len(data) and set(z) <= set(game.recommendations), "there is no such recommendation")
    proper = all(sum(column) == 1 for column in zip(*z.values(), strict=True)) and min(map(min, z.values())) >= 0
    require(proper, "no distribution")
    paid = user = Fraction(0)
    for (advice, row), x in itertools.product(z.items(), range(game.X)):
        worth = [dot(row, [game.g[x][b][a] for b in range(game.B)]) for a in range(game.A)]
        require(worth[advice[x]] == max(worth), "a recommendation would not be obeyed")
        user += worth[advice[x]]
        paid += dot(row, [game.G[i][x][b][advice[x]] for b in range(game.B)])
    require(user >= value, "a distribution is worth too little to the user")
    return paid


Game.claims = dict.fromkeys(("guarantee", "worst_case", "coverage"), prove_least_value)
Game.claims |= {"gains": prove_gains, "alignment": prove_alignment, "equilibrium_set": prove_equilibrium_set}


def verify(text, quantal=None):
    """What a proof file proves, a line a claim, or `Unproved`; quantal: the `Game` of verify_quantal.py."""
    try:
        data = json.loads(text, object_pairs_hook=lambda pairs: dict(pairs) if len(dict(pairs)) == len(pairs) else None)
        require(data.get("emalign_proof") == 1 and data["claims"], "not a proof file of this version, or empty")
        written, content = data.pop("digest"), json.dumps(data, sort_keys=True).encode()
        require(written == hashlib.sha256(content).hexdigest(), "its digest differs: it was changed")
        kind = quantal if "precision" in data["game"]["rule"] else Game
        require(kind, "the user is quantal: verify_quantal.py checks that")
        game = kind(data["game"], data["schemes"])
        return [f"{claim['kind']}: {game.claims[claim['kind']](game, claim)}" for claim in data["claims"]]
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError) as error:
        raise Unproved(f"malformed: {type(error).__name__}: {error}"[:200]) from None


def main(paths, verify=verify):
    code = 0 if paths else print(__doc__) or 1
    for path in paths:
        try:
            with open(path, encoding="utf-8") as file:
                print("\n".join(f"{path}: proved: {line}" for line in verify(file.read())))
        except (Unproved, OSError, UnicodeDecodeError) as error:
            code = print(f"{path}: NOT PROVED: {getattr(error, 'strerror', None) or error}") or 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
