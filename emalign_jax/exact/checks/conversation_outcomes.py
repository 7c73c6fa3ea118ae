"""The distribution over actions that a profile of rules leads to in a conversation, in NumPy float64.

This is independent of the code in `protocols/`, so that certificates check play. The user's replies are found by
backward induction; probabilities are then multiplied forward, along the transcripts.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.responses import respond, weighed
from emalign_jax.games import units
from emalign_jax.games.game import ReducedGame
from emalign_jax.users.conversation_tree import Tree


def reach(tree: Tree, rules: Float[np.ndarray, "K rows M"]) -> list[Float[np.ndarray, "T XB"]]:
    """By round, the probability of each transcript that ends with messages, given x_B and the user's replies."""
    K, XB = len(rules), rules.shape[1] // tree.information_sets
    levels, before = [], np.ones((1, XB))
    for r in range(tree.rounds):
        own = tree.own_history(r)
        node, joint = np.divmod(np.arange(tree.reply_nodes(r)), tree.joint_messages)
        chance = before[node]
        for i in range(K):
            at = tree.first(r) + own[node, i]
            rows = np.arange(XB) * tree.information_sets + at[:, None]
            chance = chance * rules[i][rows, tree.joint_message[joint, i][:, None]]
        levels.append(chance)
        before = np.repeat(chance, tree.joint_replies, axis=0)
    return levels


class ConversationOutcome(NamedTuple):
    """What happens at the T complete transcripts.

    reply_probability:   [XA, T] of the user's replies, given the messages
    message_probability: [T, XB] of the messages, given the replies
    action:              [XA, T, A] the distribution over actions
    replies:             by round, [XA, nodes, q] the distribution over joint replies
    """

    reply_probability: Float[np.ndarray, "XA T"]
    message_probability: Float[np.ndarray, "T XB"]
    action: Float[np.ndarray, "XA T A"]
    replies: list[Float[np.ndarray, "XA N q"]]

    def distribution(self) -> Float[np.ndarray, "XA XB A"]:
        """P(a | x_A, x_B)."""
        return np.einsum("xt,tb,xta->xba", self.reply_probability, self.message_probability, self.action, optimize=True)


def conversation_outcome(
    game: ReducedGame,
    rules: Float[np.ndarray, "K rows M"],
    tree: Tree,
    user: Any,
    favour: Float[np.ndarray, "XA XB A"],
) -> ConversationOutcome:
    """The outcome of the conversation under `rules`.

    favour: the payoffs of the agent in whose favour ties are broken, among replies too, under ties="agents".
    Two replies are compared as two actions are: by the payoffs that follow from each in every cell (x_A, x_B).
    """
    levels, mass = reach(tree, rules), np.asarray(game.mass)
    XA = len(mass)

    def weigh(payoff):
        return np.tensordot(payoff, levels[-1], (1, 1)).swapaxes(1, 2)  # [XA, T, n]

    both = weighed(weigh, np.asarray(game.user)), weighed(weigh, np.asarray(favour))
    action = respond(user.acting, both[0][0], mass @ levels[-1].T, both[0][1], *both[1])
    # The user's and the favoured agent's payoffs from each transcript in each cell, [XA, T, XB].
    user_value, favoured_value = (
        np.einsum("xta,tb,xba->xtb", action, levels[-1], np.asarray(x), optimize=True) for x in (game.user, favour)
    )
    plans: list[np.ndarray] = []
    for r in range(tree.rounds - 2, -1, -1):
        split = (XA, tree.reply_nodes(r), tree.joint_replies, tree.joint_messages, mass.shape[1])
        own, favoured = user_value.reshape(split).sum(3), favoured_value.reshape(split).sum(3)  # [XA, nodes, q, XB]
        if not user.plans:
            plan = np.asarray(user.reply_distribution(game, tree, r, np), float)
        else:
            plan = respond(
                user, own.sum(-1), mass @ levels[r].T, functools.partial(_advantages_of_replies, own),
                favoured.sum(-1), functools.partial(_advantages_of_replies, favoured),
            )  # fmt: skip
        user_value, favoured_value = (np.einsum("xnq,xnqb->xnb", plan, x) for x in (own, favoured))
        plans.insert(0, plan)
    replied = np.ones((XA, 1))
    for plan in plans:
        replied = np.repeat(replied, tree.joint_messages, axis=1)[..., None] * plan
        replied = replied.reshape(XA, -1)
    return ConversationOutcome(np.repeat(replied, tree.joint_messages, axis=1), levels[-1], action, plans)


def _advantages_of_replies(value: Float[np.ndarray, "XA N q XB"]) -> Float[np.ndarray, "XA N q q"]:
    return units.advantages(value.swapaxes(-1, -2)).sum(2)


def is_one_way(tree: Tree) -> bool:
    """Whether the user has no say, so that all rounds together are one message of M^R."""
    return tree.rounds == 1 or tree.replies == 1


def action_distribution(game: ReducedGame, rules, tree: Tree, user: Any, favour) -> np.ndarray:
    """P(a | x_A, x_B) [XA, XB, A], arguments as of `conversation_outcome`."""
    return conversation_outcome(game, rules, tree, user, favour).distribution()


def scheme_to_rule(tree: Tree, scheme: Float[np.ndarray, "XB S"]) -> Float[np.ndarray, "rows M"] | None:
    """One agent's rule that ignores replies and sends each message of `scheme` in R rounds, as its R digits in base M,
    the first digit first. None if S > M^R."""
    M, R = tree.messages, tree.rounds
    words = M**R
    if scheme.shape[1] > words:
        return None
    word_probability = np.zeros((len(scheme), words))
    word_probability[:, : scheme.shape[1]] = scheme
    rule = np.zeros((len(scheme), tree.information_sets, M))
    said = np.zeros(1, int)  # The digits sent so far, by own history.
    for r in range(R):
        parts = word_probability.reshape(len(scheme), M**r, M, -1).sum(-1)
        whole = parts.sum(-1, keepdims=True)
        first = np.eye(M)[0]
        distribution = np.where(whole > 0, parts / np.where(whole > 0, whole, 1), first)
        rule[:, tree.first(r) : tree.first(r + 1)] = distribution[:, said]
        said = np.repeat((said[:, None] * M + np.arange(M)).ravel(), tree.replies)
    return rule.reshape(-1, M)


def rule_to_scheme(tree: Tree, rule: Float[np.ndarray, "rows M"]) -> Float[np.ndarray, "XB W"]:
    """The inverse of `scheme_to_rule`: the distribution over the W = M^R sequences of messages, for a rule that ignores
    replies."""
    alone = Tree(tree.rounds, 1, False, 1, tree.messages)
    levels = [slice(tree.first(r), tree.first(r + 1), 1) for r in range(tree.rounds)]
    rules = rule.reshape(-1, tree.information_sets, tree.messages)
    kept = []
    for r, level in enumerate(levels):
        histories = np.zeros(1, int)
        for _ in range(r):
            histories = ((histories[:, None] * tree.messages + np.arange(tree.messages)) * tree.replies).ravel()
        kept.append(rules[:, level][:, histories])
    return reach(alone, np.concatenate(kept, 1).reshape(1, -1, tree.messages))[-1].T
