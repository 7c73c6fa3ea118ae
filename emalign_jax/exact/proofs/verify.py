"""Check proof files of emalign_jax with nothing but Python's standard library:  python verify.py FILE...

A proof file holds a game, claims about it, and the multipliers that prove them, as exact fractions. Everything is
computed again here, in rational arithmetic; multipliers are used only where weak duality makes any of them valid.
Section numbers are those of docs/model.md. Exit code 0: all claims of all files are proved; 1: some are not.
"""

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

    def __init__(self, data, schemes):
        self.X, self.B, self.Y = len(data["prior"]), len(data["prior"][0]), len(data["prior"][0][0])
        prior = numbers(data["prior"], self.X, self.B, self.Y)
        self.u = numbers(data["user"], None, self.Y)
        self.A = len(self.u)
        self.U = numbers(data["agents"], None, self.A, self.Y)
        self.K = len(self.U)
        self.cells = list(itertools.product(range(self.X), range(self.B)))
        require(min(min(prior[x][b]) for x, b in self.cells) >= 0, "a probability is negative")
        require(abs(sum(sum(prior[x][b]) for x, b in self.cells) - 1) < Fraction(1, 10**6), "the prior is not 1 in all")
        self.g, *self.G = [[[[dot(cell, v) for v in own] for cell in p] for p in prior] for own in (self.u, *self.U)]
        rule = data["rule"]
        self.ties, self.compared = rule["ties"], rule["compared"]
        self.tolerance, self.value_tie = numbers(rule["tie_tolerance"]), numbers(rule["value_tie"])
        known = self.ties in ("agents", "lowest", "highest", "uniform") and type(self.compared) is int
        known = known and 1 <= self.compared <= self.K and 0 <= self.tolerance < 1 and self.value_tie >= 0
        require(known and self.A**self.X * self.B <= 100_000, "the rule is unknown, or the game too large to check")
        chosen = [math.comb(self.K - 1 - r, self.compared - 1) for r in range(self.K)]  # Section 2.3.
        self.chance = [Fraction(n, sum(chosen)) for n in chosen]
        # An action is never played if one that the rule takes before it is worse in no cell.
        sign, A = {"lowest": 1, "highest": -1}.get(self.ties, 0), range(self.A)
        played = [[a for a in A if all(sign * (a - c) <= 0 or any(p[c] < p[a] for p in v) for c in A)] for v in self.g]
        self.recommendations = list(itertools.product(*played))
        self.silent = sum(max(map(sum, zip(*cells, strict=True))) for cells in self.g)
        self.full = sum(max(self.g[x][b]) for x, b in self.cells)
        reveal = [[Fraction(b == s) for s in range(self.B)] for b in range(self.B)]  # Section 6.1.
        self.informed = [self.worth(self.outcome(reveal, i), own) for i, own in enumerate(self.G)]
        self.profile = Profile(self, schemes) if schemes else None

    def above(self, payoff, x, b, a, c, tolerance):
        """What action a pays more than action c in a cell, plus `tolerance` times what they differ by."""
        step = payoff[x][b][a] - payoff[x][b][c]
        return step + tolerance * abs(step)

    def best(self, payoff, x, weights, among):
        """The actions of `among` that are as good as every other one after a message (section 4.4)."""
        rows = [[self.above(payoff, x, b, a, c, self.tolerance) for b in range(self.B)] for a in among for c in among]
        good = [dot(weights, row) >= 0 for row in rows]
        return [a for k, a in enumerate(among) if all(good[k * len(among) : (k + 1) * len(among)])]

    def respond(self, x, weights, favoured):
        """The actions of type x after a message, each with the same probability (section 3.1)."""
        tied = self.best(self.g, x, weights, range(self.A))
        if self.ties == "agents":
            tied = self.best(self.G[favoured], x, weights, tied)
        return tied if self.ties == "uniform" else tied[-1:] if self.ties == "highest" else tied[:1]

    def outcome(self, scheme, favoured):
        """The distribution q[x][b][a] of the action under one agent's scheme."""
        q = [[[Fraction(0)] * self.A for _ in range(self.B)] for _ in range(self.X)]
        for x, weights in itertools.product(range(self.X), zip(*scheme, strict=True)):
            actions = self.respond(x, weights, favoured)
            for b, a in itertools.product(range(self.B), actions):
                q[x][b][a] += weights[b] / len(actions)
        return q

    def worth(self, q, payoff):
        return sum(dot(q[x][b], payoff[x][b]) for x, b in self.cells)

    def prices(self, data):
        """{key: [(*rest, multiplier)]} of the rows [key, *rest, multiplier] of obedience."""
        found = {}
        for key, *rest, multiplier in data:
            found.setdefault(tuple(key), []).append((*rest, numbers(multiplier)))
            require(found[tuple(key)][-1][-1] >= 0, "a multiplier of obedience is negative")
        return found

    def largest(self, payoff, evidence, low, high, tolerance):
        """A bound of sum z payoff over obedient z worth low (None: any) to high: multipliers add nothing negative."""
        price = numbers(evidence["value_price"])  # Positive: of the lower limit; negative: of the upper one.
        obey = self.prices(evidence["obedience"])
        bound = -price * (low if price > 0 else high) if price else Fraction(0)
        for b in range(self.B):
            values = []
            for advice in self.recommendations:
                value = sum(payoff[x][b][a] + price * self.g[x][b][a] for x, a in enumerate(advice))
                for x, c, multiplier in obey.get(advice, ()):
                    value += multiplier * self.above(self.g, x, b, advice[x], c, tolerance)
                values.append(value)
            bound += max(values)
        return bound

    def least(self, weights, obedience, shortfall):
        """Section 6.3: every profile that pays each agent its informed payoff less `shortfall` is worth this."""
        weights, obey = numbers(weights, self.K), self.prices(obedience)
        require(min(weights) >= 0, "a weight is negative")
        bound = dot(weights, [paid - e for paid, e in zip(self.informed, shortfall, strict=True)])
        for x, b in self.cells:
            values = [self.g[x][b][a] - dot(weights, [own[x][b][a] for own in self.G]) for a in range(self.A)]
            for a in range(self.A):
                for c, multiplier in obey.get((x, a), ()):
                    values[a] -= multiplier * self.above(self.g, x, b, a, c, self.tolerance)
            bound += min(values)
        return bound


def dot(a, b):
    return sum((p * v for p, v in zip(a, b, strict=True) if p and v), Fraction(0))


class Profile:
    """What schemes lead to: values[j] and payoffs[i][j] under agent j's scheme, and the agents by rank."""

    def __init__(self, game, data):
        self.game = game
        schemes = [numbers(scheme, game.B, len(scheme[0])) for scheme in data]
        proper = all(min(row) >= 0 and sum(row) > 0 for scheme in schemes for row in scheme)
        require(len(schemes) == game.K and proper, "expected a scheme of distributions for each agent")
        schemes = [[[p / sum(row) for p in row] for row in s] for s in schemes]  # Floats need not sum to 1 exactly.
        outcomes = [game.outcome(scheme, j) for j, scheme in enumerate(schemes)]
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
    """The least user value where agents get as much as in this profile (guarantee), or by full revelation less some
    gains (worst_case, coverage), sections 6.2 and 6.3."""
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
    """The least error, in the sup norm, of fitting the user's utility by the agents' (section 7)."""
    weights, d = numbers(claim["weights"], game.K), numbers(claim["dual"], game.A, game.Y)
    offset, low, high = numbers(claim["offset"], game.Y), numbers(claim["at_least"]), numbers(claim["at_most"])
    kind, simplex = claim["offset_kind"], claim["weights_kind"] == "simplex"
    require(kind in ("none", "constant", "per_state") and (simplex or claim["weights_kind"] == "cone"), "unknown fit")
    require(min(weights) >= 0 and (not simplex or sum(weights) == 1), "weights of another kind")
    require(not any(offset) or kind == "per_state" or (kind == "constant" and len(set(offset)) == 1), "another offset")
    columns = [sum(column) for column in zip(*d, strict=True)]
    orthogonal = kind == "none" or not any(columns) or (kind == "constant" and not sum(columns))
    require(orthogonal and sum(abs(p) for row in d for p in row) <= 1, "the dual is not orthogonal or too large")
    for a, y in itertools.product(range(game.A), range(game.Y)):
        rest = dot(weights, [own[a][y] for own in game.U]) + offset[y] - game.u[a][y]
        require(abs(rest) <= high, "the weights leave a larger error")
    user, *along = [sum(map(dot, d, own)) for own in (game.u, *game.U)]
    require(simplex or min(along) >= 0, "the dual does not bound fits on the cone")
    require((min(along) if simplex else 0) - user >= low, "the dual proves a smaller error")
    return f"the least error ({claim['weights_kind']}, offset {kind}) is between {said(low)} and {said(high, up=True)}"


def prove_equilibrium_set(game, claim):
    """No pure equilibrium of Selection, exact ties as recommended, is worth less than `at_least` (section 6.5): chords
    of the f_i, from obedient distributions, exceed a line above M at both ends of intervals from V_none on."""
    require(game.compared == game.K >= 2 and game.ties == "agents", "this is about Selection, K >= 2, ties for agents")
    values, limit = numbers(claim["values"], None), numbers(claim["at_least"])
    require(values == sorted(values) and values[0] <= game.silent and values[-1] >= limit, "the intervals leave a gap")
    pay = [[[sum(own[x][b][a] for own in game.G) for a in range(game.A)] for b in range(game.B)] for x in range(game.X)]
    rows = zip(values, claim["distributions"], strict=True)
    most = [sum(obedient(game, i, value, row[i]) for i in range(game.K)) for value, row in rows]
    for evidence, *ends in zip(claim["evidence"], range(len(values) - 1), range(1, len(values)), strict=True):
        for end in ends:
            line = game.largest(pay, evidence, values[end], values[end], Fraction(0))
            require(most[end] > line, f"the gap may be 0 at {float(values[end]):.9g}")
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


CLAIMS = dict.fromkeys(("guarantee", "worst_case", "coverage"), prove_least_value)
CLAIMS |= {"gains": prove_gains, "alignment": prove_alignment, "equilibrium_set": prove_equilibrium_set}


def verify(text):
    """What a proof file proves, a line a claim; `Unproved` if anything in it is not proved."""
    try:
        data = json.loads(text, object_pairs_hook=lambda pairs: dict(pairs) if len(dict(pairs)) == len(pairs) else None)
        require(data.get("emalign_proof") == 1, "not a proof file of this version")
        game = Game(data["game"], data["schemes"])
        require(len(data["claims"]) > 0, "there is no claim")
        return [f"{claim['kind']}: {CLAIMS[claim['kind']](game, claim)}" for claim in data["claims"]]
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError) as error:
        raise Unproved(f"malformed: {type(error).__name__}: {error}"[:200]) from None


def main(paths):
    code = 0 if paths else 1
    for path in paths:
        try:
            with open(path, encoding="utf-8") as file:
                print("\n".join(f"{path}: proved: {line}" for line in verify(file.read())))
        except (Unproved, OSError, UnicodeDecodeError) as error:
            code = print(f"{path}: NOT PROVED: {getattr(error, 'strerror', None) or error}") or 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
