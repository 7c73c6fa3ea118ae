"""The best rule of one agent in a small conversation with a rational user, by a mixed-integer program (MILP).

The sequence form (section 5.6 of docs/model.md): y_r[xb, h, s] = P(the agent reaches h and sends s | x_B, the user's
replies), in which the probability of every transcript is linear. Binaries d say which action the user takes at each
transcript and x_A, and which reply at each node. With T_c the user's and H_c the agent's payoff from option c (times
the probability), sum_c d_c = 1 and

    |v - T_c| <= B_c (1 - d_c),   T_b - T_c <= e_bc + B_c (1 - d_c) for all b,   w <= H_c + B'_c (1 - d_c)

make v the user's value and w the agent's, with ties for the agent; at earlier nodes T_c and H_c are sums of v and w.
The allowed shortfall e_bc is the user's tie tolerance times what b and c differ by (`units.as_good`): linear in y for
two actions, and bounded by the spread of all actions in a cell for two replies. The upper bound is HiGHS's dual bound,
which is valid also where HiGHS stops early.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import highspy
import numpy as np
from jaxtyping import Float

from emalign_jax.exact.checks.conversation_outcomes import reach
from emalign_jax.games import units
from emalign_jax.games.game import ReducedGame
from emalign_jax.lp.highs import new_highs
from emalign_jax.users.conversation_tree import Tree

MAX_BINARIES = 128
# The time limit of one program. The bound is valid at any time, but further off on a slower machine.
SECONDS = 2.0


class BestRule(NamedTuple):
    """The answer of the program.

    upper:  an upper bound of the payoff of any rule with as many messages
    rule:   [rows, M] the best rule found, None if there is none
    solved: whether the program's payoff of that rule is within twice the gap of `upper`
    """

    upper: float
    rule: Float[np.ndarray, "rows M"] | None
    solved: bool


def binaries(tree: Tree, user_features: int, actions: int, fixed: bool) -> int:
    """An upper bound of the number of binaries; transcripts that the others never send need none."""
    nodes = 0 if fixed else sum(tree.reply_nodes(r) for r in range(tree.rounds - 1)) * tree.joint_replies
    return user_features * (tree.leaves * actions + nodes)


def best_rule(
    game: ReducedGame,
    rules: Float[np.ndarray, "K rows M"],
    agent: int,
    tree: Tree,
    user,
    tie_tolerance: float,
    gap: float,
) -> BestRule:
    """The best rule of `agent` against the others', with ties in its favour.

    tie_tolerance: the user's, or 0 for exact ties.
    gap:           the absolute MIP gap, in units of the agent's payoff.
    """
    return _Program(game, rules, agent, tree, user, tie_tolerance).solve(gap)


class _Program:
    """Variables and rows of the program, as lists to which `variables` and `row` append."""

    def __init__(self, game, rules, agent, tree, user, tie_tolerance):
        self.game, self.tree, self.tie_tolerance = game, tree, tie_tolerance
        self.own = np.asarray(game.agents[agent])
        self.XA, self.XB, self.A = np.shape(game.user)
        taken = units.most_likely(np.asarray(game.user), tolerance=user.tie_tolerance) > 0
        ends = [np.where(taken, sign * game.user, -np.inf).max(-1) for sign in (1, -1)]
        self.spread = ends[0] + ends[1]  # [XA, XB] of the user's totals, over the actions that are ever taken
        self.lower, self.upper, self.integer, self.cost = [], [], [], []
        self.rows: list[tuple[dict[int, float], float, float]] = []
        alone = tree.of_one_agent()
        self.said = [
            self.variables(0.0, 1.0, self.XB * alone.nodes(r) * tree.messages).reshape(self.XB, -1, tree.messages)
            for r in range(tree.rounds)
        ]
        for r, y in enumerate(self.said):
            before = self.said[r - 1] if r else None
            for xb, h in np.ndindex(y.shape[:2]):
                row = dict.fromkeys(y[xb, h].tolist(), 1.0)
                if before is None:
                    self.row(row, 1.0, 1.0)
                else:
                    row[int(before[xb].ravel()[h // tree.replies])] = -1.0
                    self.row(row, 0.0, 0.0)
        if user.plans or user.given is None:
            # Messages can be renamed without loss, so that their probabilities at the first x_B may be ordered.
            for y in self.said:
                for h in range(y.shape[1]):
                    for more, less in itertools.pairwise(y[0, h].tolist()):
                        self.row({more: 1.0, less: -1.0}, 0.0, np.inf)
        ones = np.ones_like(rules[agent])
        others = reach(tree, np.concatenate([rules[:agent], ones[None], rules[agent + 1 :]]))
        self.others = others  # By round, [T, XB]: the probability of the others' messages.
        self.fixed_replies = None
        if not user.plans:
            self.fixed_replies = [user.reply_distribution(game, tree, r, np) for r in range(tree.rounds - 1)]
        own_history = [tree.own_history(r)[:, agent] for r in range(tree.rounds)]
        self.sequence = []  # By round, the agent's own history and message in each transcript.
        for r in range(tree.rounds):
            node, joint = np.divmod(np.arange(tree.reply_nodes(r)), tree.joint_messages)
            self.sequence.append((own_history[r][node], tree.joint_message[joint, agent]))
        for xa in range(self.XA):
            for t in range(tree.joint_messages):
                for variable, share in self.node(xa, 0, t)[1].items():
                    self.cost[variable] += share

    def variables(self, low, high, count, integer=False) -> np.ndarray:
        """The numbers of `count` new variables."""
        at = len(self.lower) + np.arange(count)
        self.lower += [low] * count
        self.upper += [high] * count
        self.integer += [integer] * count
        self.cost += [0.0] * count
        return at

    def row(self, entries, low, high):
        self.rows.append((entries, low, high))

    def node(self, xa, r, t):
        """The user's and the agent's payoff from transcript t of round r at x_A, as linear forms {variable:
        coefficient}."""
        sent = self.others[r][t] * (self.game.mass[xa] > 0)
        if not sent.any():
            return {}, {}
        # B_c and B'_c: bounds of the differences between options to the user and to the agent.
        user_spread = np.ptp(self.game.user[xa], axis=-1) @ sent
        own_spread = np.ptp(self.own[xa], axis=-1) @ sent
        y = self.said[r][:, self.sequence[r][0][t], self.sequence[r][1][t]]
        if r == self.tree.rounds - 1:
            apart = np.abs(self.game.user[xa, :, :, None] - self.game.user[xa, :, None])  # [XB, a, c]
            shortfalls = {
                (a, c): dict(zip(y.tolist(), self.tie_tolerance * apart[:, a, c] * sent, strict=True))
                for a, c in itertools.permutations(range(self.A), 2)
            }
            forms = [
                tuple({int(c): float(p) for c, p in zip(y, sent * payoff[xa, :, a], strict=True)} for payoff in both)
                for both in [(np.asarray(self.game.user), self.own)]
                for a in range(self.A)
            ]
            return self.choice(forms, user_spread, own_spread, shortfalls)
        forms = []
        for q in range(self.tree.joint_replies):
            total: tuple[dict, dict] = {}, {}
            child = (t * self.tree.joint_replies + q) * self.tree.joint_messages
            for n in range(self.tree.joint_messages):
                for into, part in zip(total, self.node(xa, r + 1, child + n), strict=True):
                    for variable, what in part.items():
                        into[variable] = into.get(variable, 0.0) + what
            forms.append(total)
        if self.fixed_replies is not None:
            mixed: tuple[dict, dict] = {}, {}
            for share, form in zip(self.fixed_replies[r][xa, t], forms, strict=True):
                for into, part in zip(mixed, form, strict=True):
                    for variable, what in part.items():
                        into[variable] = into.get(variable, 0.0) + float(share) * what
            return mixed
        shortfall = dict(zip(y.tolist(), self.tie_tolerance * self.spread[xa] * sent, strict=True))
        shortfalls = dict.fromkeys(itertools.permutations(range(len(forms)), 2), shortfall)
        return self.choice(forms, user_spread, own_spread, shortfalls)

    def choice(self, forms, user_spread, own_spread, shortfalls):
        """The user takes one of the options `forms`; shortfalls[c, b]: by how much c may be worse than b, as a linear
        form."""
        if len(forms) == 1:
            return forms[0]
        v, w = (int(x) for x in self.variables(-np.inf, np.inf, 2))
        picks = self.variables(0.0, 1.0, len(forms), integer=True)
        self.row(dict.fromkeys(picks.tolist(), 1.0), 1.0, 1.0)
        for c, (pick, (to_user, to_agent)) in enumerate(zip(picks.tolist(), forms, strict=True)):
            less = {variable: -x for variable, x in to_user.items()}
            self.row({v: 1.0, pick: user_spread} | less, -np.inf, user_spread)
            self.row({v: 1.0, pick: -user_spread} | less, -user_spread, np.inf)
            for b, (other, _) in enumerate(forms):
                if b != c:
                    ahead = {k: other.get(k, 0.0) - to_user.get(k, 0.0) for k in other.keys() | to_user.keys()}
                    for variable, x in shortfalls[c, b].items():
                        ahead[variable] = ahead.get(variable, 0.0) - x
                    self.row(ahead | {pick: user_spread}, -np.inf, user_spread)
            own = {variable: -x for variable, x in to_agent.items()}
            self.row({w: 1.0, pick: own_spread} | own, -np.inf, own_spread)
        return {v: 1.0}, {w: 1.0}

    def solve(self, gap) -> BestRule:
        lp = highspy.HighsLp()
        lp.num_row_, lp.num_col_ = len(self.rows), len(self.lower)
        lp.sense_ = highspy.ObjSense.kMaximize
        lp.col_cost_ = np.array(self.cost)
        lp.col_lower_, lp.col_upper_ = np.array(self.lower), np.array(self.upper)
        lp.row_lower_ = np.array([low for _, low, _ in self.rows])
        lp.row_upper_ = np.array([high for _, _, high in self.rows])
        matrix = lp.a_matrix_
        matrix.format_ = highspy.MatrixFormat.kRowwise
        matrix.num_row_, matrix.num_col_ = lp.num_row_, lp.num_col_
        matrix.start_ = np.cumsum([0, *(len(entries) for entries, _, _ in self.rows)]).astype(np.int32)
        matrix.index_ = np.array([c for entries, _, _ in self.rows for c in entries], np.int32)
        matrix.value_ = np.array([x for entries, _, _ in self.rows for x in entries.values()], float)
        kinds = highspy.HighsVarType.kInteger, highspy.HighsVarType.kContinuous
        lp.integrality_ = [kinds[0] if one else kinds[1] for one in self.integer]
        highs = new_highs(
            presolve="on", solver="choose", mip_rel_gap=0.0, mip_abs_gap=gap, mip_feasibility_tolerance=1e-9,
            time_limit=SECONDS,
        )  # fmt: skip
        if highs.passModel(lp) == highspy.HighsStatus.kError:
            return BestRule(np.inf, None, False)
        highs.run()
        status, info = highs.getModelStatus(), highs.getInfo()
        proved = status in (highspy.HighsModelStatus.kOptimal, highspy.HighsModelStatus.kTimeLimit)
        bound = float(info.mip_dual_bound) if proved else np.inf
        if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
            return BestRule(bound, None, False)
        solved = bool(bound - info.objective_function_value <= 2 * gap)
        return BestRule(bound, self.rule(np.array(highs.getSolution().col_value)), solved)

    def rule(self, x) -> Float[np.ndarray, "rows M"]:
        """Conditional probabilities of messages from those of sequences; the first message at histories that are not
        reached."""
        levels = []
        for y in self.said:
            sent = np.maximum(x[y], 0)
            sent = np.where(sent > 1e-9, sent, 0)
            whole = sent.sum(-1, keepdims=True)
            levels.append(np.where(whole > 0, sent / np.where(whole > 0, whole, 1), np.eye(y.shape[2])[0]))
        return np.concatenate(levels, axis=1).reshape(-1, self.tree.messages)
