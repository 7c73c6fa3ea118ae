"""The persuasion-mechanism LP: all distributions over actions that one agent can induce in a rational user in several
rounds (section 5.2 of docs/model.md).

By the revelation principle the user reports x_A and the agent recommends an action. Variables: s[xa, xb, a] >= 0,
P(recommend a | report xa, x_B), and h[xa, r, a], the value of type xa from recommendation a after a false report r:

    obedience      sum_xb s[xa, xb, a] (g[xa, xb, a] - g[xa, xb, c]) >= 0            for all xa, a, c
    honesty        sum_{xb, a} s[xa, xb, a] g[xa, xb, a] >= sum_a h[xa, r, a]        for all xa, r,
                   h[xa, r, a] >= sum_xb s[r, xb, a] g[xa, xb, c]                    for all c.

It is exact for a conversation with one agent in which the user can report x_A, Q^(R-1) >= XA, and the last round has a
message for every action. For any other conversation, with any number of agents, it is an upper bound.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.obedience.program import NEGLIGIBLE, TOLERANCE, Advice, Price
from emalign_jax.games import units
from emalign_jax.games.game import Game, ReducedGame
from emalign_jax.lp.highs import KeptLP
from emalign_jax.users.conversation_tree import Tree

# Rows * columns of the LP.
MAX_ENTRIES = 4_000_000


def check_size(games: Game) -> None:
    """Raise `ValueError` where the LP would be too large."""
    XA, XB, A = games.user_features, games.agent_features, games.actions
    rows, columns = XA * (XB + XA * A * A + XA + 1) + 1, XA * (XB + XA) * A
    if rows * columns > MAX_ENTRIES:
        raise ValueError(
            f"games: the persuasion-mechanism LP of A = {A}, XA = {XA}, XB = {XB} has {rows} rows and {columns} "
            f"columns, the limit is rows * columns = {MAX_ENTRIES}: take fewer actions or features, or a quantal user"
        )


class MechanismLP:
    """The LP of one game, kept from question to question, with the interface of `ObedienceLP`.

    exact:         whether answers are derived in rational arithmetic (`ValueError` if too large).
    tie_tolerance: of the user, which allows choices to be that far from the best at `nodes` nodes of a conversation.
    """

    def __init__(self, game: ReducedGame, exact: bool = False, tie_tolerance: float = 0.0, nodes: int = 1):
        user = np.asarray(game.user)
        self._user = user
        advantage = units.relaxed(user, tie_tolerance)  # [XA, XB, A, A]
        likely = units.most_likely(user, tolerance=TOLERANCE)
        spread = nodes * np.array([units.unit(g[None], x[None]) for g, x in zip(user, likely, strict=True)])
        XA, XB, A = user.shape
        self._shape = XA, XB, A
        self._told = XA * XB * A
        lies = [(xa, r) for xa in range(XA) for r in range(XA) if r != xa]
        columns = self._told + len(lies) * A
        at = np.arange(self._told).reshape(XA, XB, A)
        rows, lower, relief, stakes = [], [], [], []

        def add(entries, least=0.0, gives=0.0, stake=None):
            row = np.zeros(columns)
            for where, what in entries:
                row[where] += what
            size = np.abs(row).max()
            if size == 0:
                return
            unit = np.exp2(np.frexp(size)[1]) if least == 0 else 1.0  # A power of two: no rounding.
            rows.append(row / unit)
            lower.append(least - tie_tolerance * gives / unit)
            relief.append(gives / unit)
            stakes.append(np.zeros((XA, XB, A)))
            if stake is not None:
                stakes[-1][stake[0], :, stake[1]] = stake[2] / unit

        for xa in range(XA):
            for xb in range(XB):
                add([(at[xa, xb], 1.0)], 1.0)
        self._first = len(rows)
        for xa in range(XA):
            for a in range(A):
                for c in range(A):
                    if a != c:
                        apart = np.abs(user[xa, :, a] - user[xa, :, c])
                        add([(at[xa, :, a], advantage[xa, :, a, c])], stake=(xa, a, apart))
        for n, (xa, r) in enumerate(lies):
            gets = self._told + n * A + np.arange(A)
            for a in range(A):
                for c in range(A):
                    add([(gets[a], 1.0), (at[r, :, a], -user[xa, :, c])])
            add([(at[xa], user[xa]), (gets, -1.0)], gives=spread[xa])
        self._relief, self._stakes = np.array(relief), np.array(stakes)
        self._by_type = len(rows)
        for xa in range(XA):
            row = np.zeros(columns)
            row[at[xa]] = user[xa]
            rows.append(row)
        self._value_row = len(rows)
        rows.append(np.concatenate([np.ravel(game.welfare), np.zeros(columns - self._told)]))
        self._cost = np.zeros(columns)
        self._lp = KeptLP(
            np.array(rows),
            np.concatenate([lower, np.full(XA + 1, -np.inf)]),
            np.concatenate([np.ones(self._first), np.full(len(rows) - self._first, np.inf)]),
            col_lower=np.where(np.arange(columns) < self._told, 0.0, -np.inf),
            exact=exact,
        )

    def best(
        self,
        payoff: Float[np.ndarray, "XA XB A"],
        value_at_least: float = -np.inf,
        by_type: Float[np.ndarray, "XA"] | None = None,
    ) -> Advice:
        """The largest `payoff` over mechanisms worth at least `value_at_least` to the user, and at least `by_type` [XA]
        to each type (times its probability). The scheme is s[xa, xb, a] as [XA * XB, A]."""
        result = self._solve(payoff, value_at_least, np.inf, by_type)
        if not result.optimal:
            return Advice(False, np.nan, np.full(self._shape, np.nan).reshape(-1, self._shape[2]), result.status)
        told = result.x[: self._told].reshape(-1, self._shape[2])
        told = np.where(told > NEGLIGIBLE, told, 0)
        told /= told.sum(1, keepdims=True)
        multipliers = np.maximum(-result.row_dual[: self._by_type], 0)
        multipliers[: self._first] = 0
        eased = np.tensordot(multipliers, self._stakes, 1)  # Per unit of tie tolerance.
        price = float(multipliers @ self._relief + eased.max(-1).sum())
        return Advice(True, result.value, told, result.status, result.exact, price)

    def price(
        self, payoff: Float[np.ndarray, "XA XB A"], value_at_least: float = -np.inf, value_at_most: float = np.inf
    ) -> Price:
        """As `ObedienceLP.price`."""
        result = self._solve(payoff, value_at_least, value_at_most, None)
        slope = result.row_dual[self._value_row] if result.optimal else np.nan
        return Price(result.optimal, result.value, float(slope), result.status)

    def _solve(self, payoff, value_at_least, value_at_most, by_type):
        self._cost[: self._told] = np.ravel(payoff)
        self._lp.set_cost(self._cost)
        for xa in range(self._shape[0]):
            self._lp.set_row(self._by_type + xa, -np.inf if by_type is None else by_type[xa], np.inf)
        self._lp.set_row(self._value_row, value_at_least, value_at_most)
        return self._lp.solve()


def can_report(tree: Tree, user_features: int) -> bool:
    """Whether the user can report x_A to one agent before the last round."""
    return tree.replies ** (tree.rounds - 1) >= user_features


def mechanism_to_rule(mechanism: Float[np.ndarray, "XA XB A"], tree: Tree) -> tuple[Float[np.ndarray, "rows M"], Tree]:
    """The rule [rows, M] that carries out a mechanism, and its tree: the first message while the user reports x_A,
    digit by digit, then the recommendation. Where more actions are recommended than `tree` has messages, the rule is
    one of a tree with as many messages."""
    XA, XB, _ = mechanism.shape
    used = np.flatnonzero(mechanism.max((0, 1)) > 0)
    M = max(tree.messages, len(used))
    wide = Tree(tree.rounds, tree.replies, tree.reply_to_all, tree.agents, M)
    rule = np.zeros((XB, wide.information_sets, M))
    rule[:, :, 0] = 1
    last = wide.first(wide.rounds - 1)
    for xa in range(tree.replies ** (tree.rounds - 1)):
        history = 0
        for r in range(tree.rounds - 1):
            digit = xa // tree.replies ** (tree.rounds - 2 - r) % tree.replies
            history = (history * M) * tree.replies + digit
        rule[:, last + history] = 0
        rule[:, last + history, : len(used)] = mechanism[min(xa, XA - 1)][:, used]
    return rule.reshape(-1, M), wide
