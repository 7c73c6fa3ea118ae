"""The best rule of one agent in a small conversation with a rational user, by a mixed-integer program.

The sequence form (section 5.6 of docs/model.md): y_r[xb, h, s] = P(the agent gets to say s after h | x_B, the user's
replies), in which every transcript's weight is linear. The user picks one action at each transcript and x_A, and one
reply at each node: binaries d. With T_c what the user gets from option c and H_c what the agent gets (times the
probability), sum_c d_c = 1 and

    |v - T_c| <= B_c (1 - d_c),   T_b - T_c <= e_bc + B_c (1 - d_c) for all b,   w <= H_c + B'_c (1 - d_c)

make v the user's value and w the agent's, with ties for the agent; further up T_c and H_c are sums of v and w. The
ease e_bc is the user's tie tolerance times what b and c differ by (`units.as_good`): linear in y for two actions, and
bounded by the spread of all actions in a cell for two replies. HiGHS's dual bound counts, also where it stops early.
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
from emalign_jax.users.fixed_replies import FixedReplies

MAX_BINARIES = 128
SECONDS = 2.0  # one program may take; a slower machine then leaves the bound, sound as it is, further off


class BestRule(NamedTuple):
    """upper: no rule with as many messages pays more; rule [rows, M]: the best that was found, None if none was;
    solved: whether the program pays that rule `upper`, but for twice the gap."""

    upper: float
    rule: Float[np.ndarray, "rows M"] | None
    solved: bool


def binaries(tree: Tree, user_features: int, actions: int, fixed: bool) -> int:
    """At most so many: transcripts that the others never send need none."""
    nodes = 0 if fixed else sum(tree.reply_nodes(r) for r in range(tree.rounds - 1)) * tree.joint_replies
    return user_features * (tree.leaves * actions + nodes)


def best_rule(
    game: ReducedGame, rules: Float[np.ndarray, "K rows M"], agent: int, tree: Tree, user, slack: float, gap: float
) -> BestRule:
    """Agent `agent`'s best rule against the others'. slack: the user's tie tolerance, or 0 for true ties alone,
    whatever the tie rule; gap: how closely to solve, in the agent's payoff."""
    program = _Program(game, rules, agent, tree, user, slack)
    return program.solve(gap)


class _Program:
    def __init__(self, game, rules, agent, tree, user, slack):
        self.game, self.tree, self.slack = game, tree, slack
        self.own = np.asarray(game.agents[agent])
        self.XA, self.XB, self.A = np.shape(game.user)
        taken = units.most_likely(np.asarray(game.user), tolerance=user.tie_tolerance) > 0
        ends = [np.where(taken, sign * game.user, -np.inf).max(-1) for sign in (1, -1)]
        self.spread = ends[0] + ends[1]  # [XA, XB] of the actions that are ever taken
        self.lower, self.upper, self.integer, self.cost = [], [], [], []
        self.rows: list[tuple[dict[int, float], float, float]] = []
        alone = tree.of_one_agent()
        self.said = [
            self.columns(0.0, 1.0, self.XB * alone.nodes(r) * tree.messages).reshape(self.XB, -1, tree.messages)
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
        if not (isinstance(user, FixedReplies) and user.given is not None):  # what a message is called does not matter
            for y in self.said:
                for h in range(y.shape[1]):
                    for more, less in itertools.pairwise(y[0, h].tolist()):
                        self.row({more: 1.0, less: -1.0}, 0.0, np.inf)
        ones = np.ones_like(rules[agent])
        others = reach(tree, np.concatenate([rules[:agent], ones[None], rules[agent + 1 :]]))
        self.others = others  # [T, XB] by round: chance of what the others say
        self.laws = None
        if isinstance(user, FixedReplies):
            self.laws = [user.reply_distribution(game, tree, r, np) for r in range(tree.rounds - 1)]
        own_history = [tree.own_history(r)[:, agent] for r in range(tree.rounds)]
        self.sequence = []  # (own history, own message) of each transcript, by round
        for r in range(tree.rounds):
            node, joint = np.divmod(np.arange(tree.reply_nodes(r)), tree.joint_messages)
            self.sequence.append((own_history[r][node], tree.joint_message[joint, agent]))
        for xa in range(self.XA):
            for t in range(tree.joint_messages):
                _, his = self.node(xa, 0, t)
                for column, share in his.items():
                    self.cost[column] += share

    def columns(self, low, high, count, integer=False) -> np.ndarray:
        at = len(self.lower) + np.arange(count)
        self.lower += [low] * count
        self.upper += [high] * count
        self.integer += [integer] * count
        self.cost += [0.0] * count
        return at

    def row(self, entries, low, high):
        self.rows.append((entries, low, high))

    def node(self, xa, r, t):
        """What she and he get from transcript t of round r at x_A, as linear forms {column: coefficient}."""
        chance = self.others[r][t] * (self.game.mass[xa] > 0)
        if not chance.any():
            return {}, {}
        hers = np.ptp(self.game.user[xa], axis=-1) @ chance  # what all options may differ by
        his = np.ptp(self.own[xa], axis=-1) @ chance
        y = self.said[r][:, self.sequence[r][0][t], self.sequence[r][1][t]]
        if r == self.tree.rounds - 1:
            apart = np.abs(self.game.user[xa, :, :, None] - self.game.user[xa, :, None])  # [XB, a, c]
            ease = {
                (a, c): dict(zip(y.tolist(), self.slack * apart[:, a, c] * chance, strict=True))
                for a, c in itertools.permutations(range(self.A), 2)
            }
            forms = [
                tuple({int(c): float(p) for c, p in zip(y, chance * payoff[xa, :, a], strict=True)} for payoff in both)
                for both in [(np.asarray(self.game.user), self.own)]
                for a in range(self.A)
            ]
            return self.choice(forms, hers, his, ease)
        forms = []
        for q in range(self.tree.joint_replies):
            total: tuple[dict, dict] = {}, {}
            child = (t * self.tree.joint_replies + q) * self.tree.joint_messages
            for n in range(self.tree.joint_messages):
                for into, part in zip(total, self.node(xa, r + 1, child + n), strict=True):
                    for column, what in part.items():
                        into[column] = into.get(column, 0.0) + what
            forms.append(total)
        if self.laws is not None:
            mixed: tuple[dict, dict] = {}, {}
            for share, form in zip(self.laws[r][xa, t], forms, strict=True):
                for into, part in zip(mixed, form, strict=True):
                    for column, what in part.items():
                        into[column] = into.get(column, 0.0) + float(share) * what
            return mixed
        spread = dict(zip(y.tolist(), self.slack * self.spread[xa] * chance, strict=True))
        return self.choice(forms, hers, his, dict.fromkeys(itertools.permutations(range(len(forms)), 2), spread))

    def choice(self, forms, hers, his, ease):
        """One option is taken; ease[c, b]: by how much c may fall short of b, as a linear form."""
        if len(forms) == 1:
            return forms[0]
        v, w = (int(x) for x in self.columns(-np.inf, np.inf, 2))
        picks = self.columns(0.0, 1.0, len(forms), integer=True)
        self.row(dict.fromkeys(picks.tolist(), 1.0), 1.0, 1.0)
        for c, (pick, (to_her, to_him)) in enumerate(zip(picks.tolist(), forms, strict=True)):
            less = {column: -x for column, x in to_her.items()}
            self.row({v: 1.0, pick: hers} | less, -np.inf, hers)
            self.row({v: 1.0, pick: -hers} | less, -hers, np.inf)
            for b, (other, _) in enumerate(forms):
                if b != c:
                    ahead = {k: other.get(k, 0.0) - to_her.get(k, 0.0) for k in other.keys() | to_her.keys()}
                    for column, x in ease[c, b].items():
                        ahead[column] = ahead.get(column, 0.0) - x
                    self.row(ahead | {pick: hers}, -np.inf, hers)
            self.row({w: 1.0, pick: his} | {column: -x for column, x in to_him.items()}, -np.inf, his)
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
        """Conditional probabilities from those of sequences; anything where he never gets to."""
        laws = []
        for y in self.said:
            chance = np.maximum(x[y], 0)
            chance = np.where(chance > 1e-9, chance, 0)
            whole = chance.sum(-1, keepdims=True)
            laws.append(np.where(whole > 0, chance / np.where(whole > 0, whole, 1), np.eye(y.shape[2])[0]))
        return np.concatenate(laws, axis=1).reshape(-1, self.tree.messages)
