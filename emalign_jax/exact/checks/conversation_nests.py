"""One agent's best payoff in a conversation as a nested concavification (section 5.6 of docs/model.md).

* Against replies by a fixed rule it is the agent's best payoff itself: the agent splits its flow among messages, and
  hears replies. In Selection the rule must be worth enough to the user, too.
* Against a user that chooses replies it is an upper bound: the agent learns x_A and the others' messages, and the
  replies are chosen in its favour.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from emalign_jax.exact.checks.base import WORK
from emalign_jax.exact.checks.conversation_outcomes import reach
from emalign_jax.exact.checks.conversation_starts import groups_of
from emalign_jax.exact.concavification.by_user import payoffs
from emalign_jax.exact.concavification.kinks import MAX_EDGES, count_corners
from emalign_jax.exact.concavification.nested import NestedOptimum, Nesting
from emalign_jax.exact.concavification.problems import BeliefProblems, weighted_problems
from emalign_jax.games.game import ReducedGame
from emalign_jax.internal.arguments import power
from emalign_jax.lp.highs import KeptLP
from emalign_jax.users.conversation_tree import Tree

# The largest number of ends, and of ends * types * x_B * pairs of actions.
MAX_ENDS, MAX_NUMBERS = 64, 2**17
# The limit of the proof of a nest's bound, in the units of `WORK`.
NEST_WORK = WORK // 25
# A belief of smaller weight is not sent.
SMALLEST_WEIGHT = 1e-12


class Nest(NamedTuple):
    """The problems at the ends of a nesting."""

    problems: BeliefProblems
    nesting: Nesting


def fits(tree: Tree, game: ReducedGame, user) -> bool:
    """Whether the nest for this user is small enough: `free_replies` if it plans, otherwise `fixed_replies`."""
    XA, XB, A = np.shape(game.user)
    rounds, said = tree.rounds - 1, power(tree.messages, tree.agents - 1)
    if user.plans:
        to_others = tree.replies if tree.reply_to_all else power(tree.replies, tree.agents - 1)
        ends, types = XA * power(said * to_others, rounds), said * XA
    else:
        besides = tree.joint_replies // tree.replies  # Replies that the agent does not hear.
        ends, types = tree.histories(rounds), XA * said * power(said * besides, rounds)
    if ends > MAX_ENDS or ends * types * XB * A * A > MAX_NUMBERS:
        return False
    # With more corners each end would be a MILP.
    return user.acting.is_smooth or count_corners(types * A * (A - 1) + XB, XB) <= MAX_EDGES


def fixed_replies(
    game: ReducedGame, rules: Float[np.ndarray, "K rows M"], agent: int, tree: Tree, user, goal: int | None = None
) -> Nest:
    """The best payoff of `agent` against the others' rules and a rule of replies. Ends are its own histories.

    goal: the number of the agent's payoff in the game; by default `agent`.
    """
    last = tree.rounds - 1
    replied = np.ones((len(game.mass), 1))  # [XA, nodes] the probability of the replies so far.
    for r in range(last):
        plan = np.asarray(user.reply_distribution(game, tree, r, np), float)
        replied = (np.repeat(replied, tree.joint_messages, 1)[..., None] * plan).reshape(len(replied), -1)
    own = tree.own_history(last)[:, agent]
    nodes = np.argsort(own, kind="stable").reshape(tree.histories(last), -1)  # By own history.
    said = _said_by_others(rules, agent, tree)[nodes]  # [ends, nodes, messages, XB]
    replied = np.moveaxis(replied[:, nodes], 0, 2)[:, :, None, :, None]
    weights = (replied * said[:, :, :, None]).reshape(len(nodes), -1, len(game.mass), said.shape[-1])
    goal = agent if goal is None else goal
    return _nest(game, weights, goal, user, Nesting((tree.messages, tree.replies) * last, True))


def free_replies(game: ReducedGame, rules: Float[np.ndarray, "K rows M"], agent: int, tree: Tree, user) -> Nest:
    """An upper bound of what `agent` gets against the others' rules from a user that chooses its replies. Ends are x_A,
    the others' messages and the replies to them, but for those of the last round."""
    last, XA = tree.rounds - 1, len(game.mass)
    nodes = np.zeros(1, int)  # Where the agent's own messages are 0, and so are replies to it that others do not hear.
    messages = np.flatnonzero(tree.joint_message[:, agent] == 0)
    replies = np.arange(tree.replies) if tree.reply_to_all else np.flatnonzero(tree.joint_reply[:, agent] == 0)
    for _ in range(last):
        nodes = (nodes[:, None] * tree.joint_messages + messages).ravel()
        nodes = (nodes[:, None] * tree.joint_replies + replies).ravel()
    said = _said_by_others(rules, agent, tree)[nodes]  # [nodes, messages, XB]
    weights = np.eye(XA)[:, None, None, :, None] * said[None, :, :, None]
    branches = [len(messages), len(replies)] * last
    branches[0] *= XA
    return _nest(game, weights.reshape(-1, *weights.shape[2:]), agent, user, Nesting(tuple(branches), False))


def _said_by_others(rules, agent: int, tree: Tree) -> Float[np.ndarray, "nodes messages XB"]:
    """The probability of the others' messages, those of the last round by joint message without the agent's, given x_B
    and the replies."""
    ones = np.ones_like(rules[agent])
    reached = reach(tree, np.concatenate([rules[:agent], ones[None], rules[agent + 1 :]]))[-1]
    messages = tree.joint_message[:, agent] == 0
    return reached.reshape(-1, tree.joint_messages, reached.shape[1])[:, messages]


def _nest(game: ReducedGame, weights, agent: int, user, nesting: Nesting) -> Nest:
    one: Any = game._replace(agents=game.agents[[agent]])
    games, users = jax.tree.map(lambda x: np.repeat(np.asarray(x)[None], len(weights), 0), (one, user.acting))
    return Nest(weighted_problems(games, weights, users), nesting)


def to_rule(nest: Nest, optimum: NestedOptimum, tree: Tree, keep_value: bool = False) -> Float[np.ndarray, "rows M"]:
    """The agent's rule that carries out an optimum against fixed replies. Where an end needs more than M messages they
    are merged.

    keep_value: whether what the user gets is to be kept too, which may need one more message.
    """
    M, Q, XB = tree.messages, tree.replies, nest.problems.target.shape[1]
    ends = np.einsum("hk,hkb->hb", optimum.weights, optimum.points)
    sent = np.zeros((len(ends), XB, M))  # At each end, how much of each x_B each message carries.
    for end in range(len(ends)):
        beliefs = _few(nest.problems.rows([end]), optimum.points[end], optimum.weights[end], keep_value)
        group = groups_of(lambda x, end=end: payoffs(nest.problems.rows([end]), x[None])[0][0], beliefs, M)
        np.add.at(sent[end].T, group, beliefs)
    levels = [sent]
    flows = ends
    for _ in range(tree.rounds - 1):
        flows = flows.reshape(-1, M, Q, XB).mean(2)  # The replies copy the flow.
        levels.insert(0, flows.swapaxes(1, 2))
        flows = flows.sum(1)
    first = np.eye(M)[0]
    rules = []
    for level in levels:
        whole = level.sum(2, keepdims=True)
        rules.append(np.where(whole > SMALLEST_WEIGHT, level / np.where(whole > 0, whole, 1), first))
    rule = np.concatenate(rules).swapaxes(0, 1).reshape(-1, M)
    return rule / rule.sum(1, keepdims=True)


def _few(problem: BeliefProblems, points, weights, keep_value: bool) -> Float[np.ndarray, "N B"]:
    """Unnormalised beliefs with the same sum and payoff, at most as many as x_B; one more to keep the user's value."""
    used = weights > SMALLEST_WEIGHT
    points, weights = points[used], weights[used]
    if len(points) > points.shape[1] + keep_value:
        own, user = (x[0] for x in payoffs(problem, points[None]))
        rows = np.concatenate([points, user[:, None]], 1) if keep_value else points
        result = KeptLP(rows.T, weights @ rows, weights @ rows, cost=own).solve()
        if result.optimal:
            points, weights = points[result.x > SMALLEST_WEIGHT], result.x[result.x > SMALLEST_WEIGHT]
    return points * weights[:, None]
