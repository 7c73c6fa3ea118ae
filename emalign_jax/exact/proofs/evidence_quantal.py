"""Evidence about quantal users for proof files: prices of beliefs, and a division of the simplex on whose cells the
verifier's bounds hold (sections 5.3 and 12.1 of docs/model.md).

The prices are those of the belief LPs, a little higher. The tree is found by the verifier's own bounds, so that it
proves what the file claims, whatever the float64 branch and bound has found.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import jax
import numpy as np

from emalign_jax.exact.checks.base import WORK, make_check
from emalign_jax.exact.checks.pooled_beliefs import profile_lps
from emalign_jax.exact.proofs import verify_quantal
from emalign_jax.exact.proofs.evidence import size_of, text
from emalign_jax.games.game import Game, reduce_game
from emalign_jax.lp.highs import LPFailed
from emalign_jax.protocols import Pooled
from emalign_jax.users.quantal import QuantalUser

# A proved bound exceeds the best payoff by about this share of the payoff range; the next one is for agents for whom
# the first takes too many cells.
ROOM = (1e-4, 1e-3, 1e-2)
# The largest number of cells, with those that are divided, for an agent; and that number times the types: half a minute
# for each room, and 200 kB.
MOST_CELLS, MOST_EXCESSES = 20_000, 200_000
# With more x_B many games need more cells than that, and minutes to find it out.
MOST_FEATURES = 3
# Edges are divided at multiples of this part.
PARTS = 64
# An agent whose payoff range is smaller than this share of its payoffs counts as one with that range.
LEAST_ROOM = Fraction(1, 2**40)
# Prices are multiples of this share of the room, or of half of it.
STEP = Fraction(1, 2**20)


class Writer:
    """Finds evidence for a draft of a proof file about a quantal user in Pooled."""

    def __init__(self, draft: dict[str, Any]):
        self.draft, self.game = draft, verify_quantal.Game(draft["game"], draft["schemes"])

    def gains(self, _) -> dict[str, Any]:
        """The evidence and the bounds of the claim "gains".

        Raises `LPFailed` where an LP was not solved or too many cells are needed.
        """
        data = self.draft["game"]
        game = Game(*(floats(data[name]) for name in ("prior", "user", "agents")), check="shapes")
        reduced, schemes = reduce_game(game, np), floats(self.draft["schemes"])
        if reduced.mass.shape[1] > MOST_FEATURES:
            raise LPFailed(f"proofs: with a quantal user of at most {MOST_FEATURES} x_B, got {reduced.mass.shape[1]}")
        user = QuantalUser(float(Fraction(data["rule"]["precision"])))
        with verify_quantal.flint.ctx.workprec(verify_quantal.BITS):
            exact, evidence, at_most = self.game, [], []
            for i, (price, size) in enumerate(_prices(exact, reduced, schemes, Pooled(), user)):
                payoffs = verify_quantal.Payoffs(exact, i, exact.G[i])
                evidence.append(_proved(payoffs, price, size))
                given = verify_quantal.prices(exact, evidence[i]["price"])
                gain = verify_quantal.of_prior(exact, given) - payoffs.paid(exact.schemes[i])
                at_most.append(Fraction(math.nextafter(float(gain.upper()), math.inf)))
        return {"evidence": evidence, "at_most": text(at_most)}


def floats(data: Any) -> np.ndarray:
    """The numbers of nested lists of fractions, which are float64 numbers."""
    return np.array(np.vectorize(lambda each: float(Fraction(each)))(np.array(data, object)), float)


def _prices(game: Any, reduced: Any, schemes, protocol, user) -> list[tuple[list[Fraction], Fraction]]:
    """For each agent the price of each x_B in the belief LP, and the payoff range."""
    K = len(schemes)
    alone = jax.tree.map(lambda x: np.asarray(x)[None], (reduced, user))
    check = make_check(alone[0], 0, protocol, alone[1])
    each = jax.tree.map(lambda x: np.repeat(np.asarray(x)[None], K, 0), (check.game, schemes, check.user))
    lps = profile_lps(each[0], each[1], np.arange(K), each[2], compiled=False)
    ranges = np.where(check.payoff_range > 0, check.payoff_range, check.negligible)
    lps.best(np.arange(K), ROOM[0] * ranges, WORK)
    if lps.failed.any():
        raise LPFailed("a belief LP was not solved")
    best, found = np.asarray(reduced.user).argmax(-1), []  # The action that is worth 0 in standard units.
    for i in range(K):
        unit = Fraction(float(check.form.agent_unit[i]))
        zero = [sum(game.G[i][x][b][best[x, b]] for x in range(game.X)) for b in range(game.B)]
        price = [
            Fraction(float(p)) * unit + (z / chance if chance else 0)
            for p, z, chance in zip(lps.price[i], zero, game.chance, strict=True)
        ]
        least = LEAST_ROOM * size_of(v for row in game.G[i] for cell in row for v in cell)
        found.append((price, max(Fraction(float(ranges[i])) * unit, least)))
    return found


def _proved(payoffs: Any, price: list[Fraction], size: Fraction) -> dict[str, Any]:
    """Higher prices, and a tree that proves them: for the first room for which it is small enough."""
    for share in ROOM:
        room = Fraction(share) * size
        step = Fraction(2) ** (math.frexp(float(room))[1] - 1) * STEP
        higher = [math.ceil((p + room) / step) * step for p in price]
        tree = _tree(payoffs, higher)
        if tree is not None:
            return {"price": text(higher), "tree": tree}
    raise LPFailed(
        f"proofs: more than {_most_cells(payoffs)} cells of beliefs are needed (XB = {payoffs.game.B}): take fewer x_B "
        "or messages, or a lower precision"
    )


def _most_cells(payoffs: Any) -> int:
    return min(MOST_CELLS, MOST_EXCESSES // max(len(payoffs.types), 1))


def _tree(payoffs: Any, price: list[Fraction]) -> list[Any] | None:
    """The division of the simplex, as the verifier reads it; None if it would be too large."""
    balls = [verify_quantal.ball(price[b]) for b in payoffs.game.possible]
    waiting, tree, most = [verify_quantal.whole(payoffs)], [], _most_cells(payoffs)
    while waiting:
        vertices = waiting.pop()
        cell = verify_quantal.Cell(payoffs, balls, vertices)
        if cell.closed:
            tree.append(0)
            continue
        if not all(room >= 0 for room in cell.room) or len(tree) + len(waiting) > most:
            return None  # A belief pays more than its price, or there are too many cells.
        i, j, share = _division(cell)
        tree.append([i, j, str(share)])
        waiting += reversed(verify_quantal.divided(i, j, verify_quantal.ball(share), vertices, payoffs))
    return tree


def _division(cell: Any) -> tuple[int, int, Fraction]:
    """The edge that contributes most to the excess to second order, and where to divide it: nearer to where a type is
    rare, since its response changes near there.

    Vertices count by the weights for which the cell was found open. Their square roots, and those of the edges, need
    the fewest cells of the rules that were tried on random games of three x_B: without weights several times as many.
    """
    weights, parts, nearer = [math.sqrt(w) for w in cell.weights], {}, {}
    for t, edges in cell.edges.items():
        excess, own, paired = cell.excesses[t], {}, 0.0
        for (i, j), (bound, second, m, n) in edges.items():
            x, y = weights[excess.at[i]] * m, weights[excess.at[j]] * n
            paired += float(bound) * x * y / (x + y)
            own[i, j] = math.sqrt(float(second) * x * y / (x + y)), math.sqrt(m) / (math.sqrt(m) + math.sqrt(n))
        alone = sum(weights[v] * float(first) for v, first in zip(excess.at, excess.first, strict=True))
        whole = sum(part for part, _ in own.values())
        for (i, j), (part, near) in own.items():
            edge, part = (excess.at[i], excess.at[j]), part * (min(alone, paired) / whole if whole > 0 else 1)
            parts[edge] = parts.get(edge, 0) + part
            nearer[edge] = nearer.get(edge, 0) + part * near
    edge = max(parts, key=parts.__getitem__)
    place = nearer[edge] / parts[edge] if parts[edge] > 0 else 0.5
    share = round(PARTS * place) if 0 <= place <= 1 else PARTS // 2
    return (*edge, Fraction(min(max(share, 1), PARTS - 1), PARTS))
