"""Conversations once more, in NumPy float64: the law over actions that a profile of rules leads to.

Written apart from `protocols/` on purpose. She plans backward, what is worth how much to whom is then added up
forward, along the transcripts, as one law over actions for each x_A and x_B.
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
from emalign_jax.users.fixed_replies import FixedReplies


def reach(tree: Tree, rules: Float[np.ndarray, "K rows M"]) -> list[Float[np.ndarray, "T XB"]]:
    """By round, the probability of each transcript that ends with messages, given x_B and her replies."""
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


class Talk(NamedTuple):
    """What happens at the transcripts T at which she acts.

    heard:   [XA, T] chance of the user's replies, given the messages
    chance:  [T, XB] of the messages, given the replies
    action:  [XA, T, A] the distribution over actions
    replies: by round, [XA, nodes, q] that over joint replies
    """

    heard: Float[np.ndarray, "XA T"]
    chance: Float[np.ndarray, "T XB"]
    action: Float[np.ndarray, "XA T A"]
    replies: list[Float[np.ndarray, "XA N q"]]

    def law(self) -> Float[np.ndarray, "XA XB A"]:
        """P(a | x_A, x_B)."""
        return np.einsum("xt,tb,xta->xba", self.heard, self.chance, self.action, optimize=True)


def talk(
    game: ReducedGame,
    rules: Float[np.ndarray, "K rows M"],
    tree: Tree,
    user: Any,
    favour: Float[np.ndarray, "XA XB A"],
) -> Talk:
    """Under ties="agents" ties, of replies too, go to `favour`.

    Two replies are compared as two actions are: by what follows from either in each cell (x_A, x_B).
    """
    levels, mass = reach(tree, rules), np.asarray(game.mass)
    XA = len(mass)

    def weigh(payoff):
        return np.tensordot(payoff, levels[-1], (1, 1)).swapaxes(1, 2)  # [XA, T, n]

    both = weighed(weigh, np.asarray(game.user)), weighed(weigh, np.asarray(favour))
    action = respond(user.acting, both[0][0], mass @ levels[-1].T, both[0][1], *both[1])
    # what each transcript leads to in each cell, [XA, T, XB]
    worth, worth_favoured = (
        np.einsum("xta,tb,xba->xtb", action, levels[-1], np.asarray(x), optimize=True) for x in (game.user, favour)
    )
    plans: list[np.ndarray] = []
    for r in range(tree.rounds - 2, -1, -1):
        split = (XA, tree.reply_nodes(r), tree.joint_replies, tree.joint_messages, mass.shape[1])
        hers, his = worth.reshape(split).sum(3), worth_favoured.reshape(split).sum(3)  # [XA, nodes, q, XB]
        if isinstance(user, FixedReplies):
            plan = np.asarray(user.reply_distribution(game, tree, r, np), float)
        else:
            plan = respond(
                user, hers.sum(-1), mass @ levels[r].T, functools.partial(_ahead, hers),
                his.sum(-1), functools.partial(_ahead, his),
            )  # fmt: skip
        worth, worth_favoured = (np.einsum("xnq,xnqb->xnb", plan, x) for x in (hers, his))
        plans.insert(0, plan)
    heard = np.ones((XA, 1))
    for plan in plans:
        heard = np.repeat(heard, tree.joint_messages, axis=1)[..., None] * plan
        heard = heard.reshape(XA, -1)
    return Talk(np.repeat(heard, tree.joint_messages, axis=1), levels[-1], action, plans)


def _ahead(worth: Float[np.ndarray, "XA N q XB"]) -> Float[np.ndarray, "XA N q q"]:
    return units.advantages(worth.swapaxes(-1, -2)).sum(2)


def law_of_actions(game: ReducedGame, rules, tree: Tree, user: Any, favour) -> np.ndarray:
    """P(a | x_A, x_B) [XA, XB, A], arguments as of `talk`."""
    return talk(game, rules, tree, user, favour).law()


def spell(tree: Tree, scheme: Float[np.ndarray, "XB S"]) -> Float[np.ndarray, "rows M"] | None:
    """One agent's rule that tells as much as `scheme`: he spells one of its S messages in R rounds, first digit first,
    and takes no notice of her replies. None if S > M^R."""
    M, R = tree.messages, tree.rounds
    words = M**R
    if scheme.shape[1] > words:
        return None
    chance = np.zeros((len(scheme), words))
    chance[:, : scheme.shape[1]] = scheme
    rule = np.zeros((len(scheme), tree.information_sets, M))
    said = np.zeros(1, int)  # the word so far, by own history
    for r in range(R):
        parts = chance.reshape(len(scheme), M**r, M, -1).sum(-1)
        whole = parts.sum(-1, keepdims=True)
        first = np.eye(M)[0]
        law = np.where(whole > 0, parts / np.where(whole > 0, whole, 1), first)
        rule[:, tree.first(r) : tree.first(r + 1)] = law[:, said]
        said = np.repeat((said[:, None] * M + np.arange(M)).ravel(), tree.replies)
    return rule.reshape(-1, M)


def unspell(tree: Tree, rule: Float[np.ndarray, "rows M"]) -> Float[np.ndarray, "XB W"]:
    """The law over words of a rule that takes no notice of replies (or hears only one)."""
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
