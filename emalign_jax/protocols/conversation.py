"""Conversation: R rounds of messages and replies, then the user acts (section 2.4 of docs/model.md).

A transcript t has weights W[t, xb] (the agents' messages) and Q[t, xa] (the user's replies). Replies are chosen by
backward induction over transcripts, which is exact because the user forgets nothing. The layout of rules in arrays is
that of `users/conversation_tree.py`.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from decimal import Decimal
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from emalign_jax.games import units
from emalign_jax.games.game import Array, Game, ReducedGame
from emalign_jax.internal.arguments import choice, integer, power
from emalign_jax.internal.sums import add_up
from emalign_jax.internal.validation import setting
from emalign_jax.protocols.base import (
    MAX_CELLS,
    AbstractProtocol,
    Payoffs,
    inverse_mass,
    pairwise_advantages,
    posterior_mean,
)
from emalign_jax.users.base import AbstractUser, Options
from emalign_jax.users.conversation_tree import Tree

REPLY_TO = ("each", "all")
# A tree with more rounds fits into no memory, unless there is one message and no choice of replies.
MOST_ROUNDS = 100
# Largest one-hot matrix, of histories times nodes, by which rules are read in place of a gather.
MAX_ONE_HOT = 2**16


class AbstractConversation(AbstractProtocol):
    """What all conversations have in common: their sizes."""

    expected_utilities = True

    rounds: int = eqx.field(static=True, converter=lambda value: integer("rounds", value, 1, MOST_ROUNDS))
    replies: int = setting("replies", 2, integer, 1)
    to: str = setting("to", "each", choice, REPLY_TO)

    def tree(self, agents: int, messages: int) -> Tree:
        return Tree(self.rounds, self.replies, self.to == "all", agents, messages)

    @property
    def title(self):
        return f"{type(self).__name__}, {self.rounds} rounds"

    @property
    def conversation(self):
        return self

    def messages(self, game: Game) -> int:
        """The least number of messages M with which R rounds can reveal x_B, M^R >= XB."""
        return next(m for m in range(1, game.agent_features + 1) if power(m, self.rounds) >= game.agent_features)

    def rows(self, game: Game, messages: int) -> int:
        return game.agent_features * self.tree(1, messages).information_sets


class Conversation(AbstractConversation):
    """Several rounds of messages and replies, evaluated on the whole tree of transcripts.

    Schemes are whole rules [..., K, rows, M]: `rows` says how many information sets an agent has.

    Args:
        rounds: R >= 1, rounds of messages.
        replies: Q >= 1, replies that the user can give after each round but the last; with 1 the user only listens.
        to: "each": each agent gets a reply of its own and hears none of the others; "all": one reply goes to all.

    Raises:
        ValueError: names the field and the rule.

    Example:
        >>> game, protocol = em.catalog.what_to_ask(bits=3), em.Conversation(rounds=2, replies=3)
        >>> protocol.rows(game, messages=2)  # 8 values of x_B, each with 1 + 2 * 3 own histories
        56

    Source: section 2.4 of docs/model.md.
    """

    name = "conversation"
    counts_welfare = True

    @property
    def as_conversation(self):
        return self

    def full_revelation_is_heard(self, agents):
        return True

    def payoffs(self, game: ReducedGame, schemes: Float[Array, "K rows M"], user: AbstractUser) -> Payoffs:
        tree = self.tree(len(schemes), schemes.shape[-1])
        levels = transcript_weights(tree, schemes)
        found = backward_induction(tree, levels, game, game.agents, user)
        return Payoffs(found.value.sum(), found.own.sum((1, 2)), found.perceived.sum())

    def pseudo_gradient(
        self, game: ReducedGame, schemes: Float[Array, "K rows M"], user: AbstractUser
    ) -> Float[Array, "K rows M"]:
        if user.acting.logit_precision is None:
            return super().pseudo_gradient(game, schemes, user)
        slopes = self._slopes(game, schemes, game.agents, user)  # [K of whose payoff, K of whose rule, rows, M]
        return jnp.einsum("iirm->irm", slopes)

    def own_gradient(self, game, schemes, agent, user):
        if user.acting.logit_precision is None:
            return super().own_gradient(game, schemes, agent, user)
        goal = jnp.einsum("i,ixba->xba", agent, game.agents)
        return jnp.einsum("i,irm->rm", agent, self._slopes(game, schemes, goal[None], user)[0])

    def _slopes(self, game, schemes, goals, user):
        tree = self.tree(len(schemes), schemes.shape[-1])
        levels, pullback = jax.vjp(lambda s: transcript_weights(tree, s), schemes)
        return jax.vmap(pullback)(slopes_in_weights(tree, levels, game, goals, user.acting.logit_precision, user))[0]

    def action_distribution(
        self, game: ReducedGame, scheme: Float[Array, "rows M"], goal: Float[Array, "XA XB A"], user: AbstractUser
    ) -> Float[Array, "XA XB A"]:
        """The distribution over actions given (x_A, x_B) in a conversation with one agent alone; [XA, XB, A].

        Args:
            game: one game.
            scheme: [rows, M] the agent's rule.
            goal: [XA, XB, A] totals of the party for whom ties are broken.
            user: how the user acts.
        """
        tree = self.tree(1, scheme.shape[-1])
        levels = transcript_weights(tree, scheme[None])
        found = backward_induction(tree, levels, game, goal[None], user)
        reply_weights = jnp.ones((len(goal), tree.messages), scheme.dtype)  # Q [XA, t]
        for reply in found.replies:
            weights = reply_weights[:, None] * reply[0].swapaxes(1, 2)
            reply_weights = jnp.tile(weights.reshape(len(goal), -1), (1, tree.messages))
        return jnp.einsum("xta,xt,bt->xba", found.response[0], reply_weights, levels[-1])

    def cells(self, game: Game, messages: int) -> int:
        return self.tree(game.agents, messages).cells(game.user_features, game.actions)

    def check(self, game: Game, messages: int) -> None:
        cells = self.cells(game, messages)
        if cells <= MAX_CELLS:
            return

        def needed(rounds, messages, replies):
            tree = Tree(rounds, replies, self.to == "all", game.agents, messages)
            return tree.cells(game.user_features, game.actions)

        fits = sizes_that_fit(needed, rounds=self.rounds, messages=messages, replies=self.replies)
        raise ValueError(
            f"rounds, messages, replies: {self.rounds} rounds with {game.agents} agents, {messages} messages and "
            f"{self.replies} replies (to {self.to}) need {Decimal(8 * cells):.3g} bytes a game; the limit is "
            f"{8 * MAX_CELLS:.3g}. {fits}"
        )


def sizes_that_fit(cells: Callable[..., int], **sizes: int) -> str:
    """A sentence for error messages: of each size, the largest value that keeps `cells(**sizes)` within the limit."""
    fits = []
    for field, most in sizes.items():
        largest = bisect.bisect_right(range(1, most), MAX_CELLS, key=lambda n, field=field: cells(**sizes | {field: n}))
        if largest:
            fits.append(f"{field} = {largest}")
    return f"The largest that fits, all else as it is: {', or '.join(fits) or 'none'}"


class Continuation(NamedTuple):
    """What a conversation leads to, by backward induction.

    value:     [XA, M^K] what the user gets in total after each joint message of the first round.
    perceived: [XA, M^K] what the user believes to get.
    own:       [G, XA, M^K] what each goal gets.
    replies:   one array [1 or G, XA, reply nodes, q] for each round but the last: the distribution of the joint reply.
    response:  [1 or G, XA, leaves, A] the distribution of the action.
    """

    value: Float[Array, "XA N"]
    perceived: Float[Array, "XA N"]
    own: Float[Array, "G XA N"]
    replies: list[Float[Array, "F XA N q"]]
    response: Float[Array, "F XA N A"]


def transcript_weights(tree: Tree, rules: Float[Array, "K rows M"]) -> list[Float[Array, "XB N"]]:
    """For each round, the probability W of every transcript that ends with messages, given the replies in it.

    Transcripts are not in the order of `Tree`: the latest message or reply varies slowest, so that sums over it run
    along whole rows of memory, transcript' = (message * joint replies + reply) * transcripts + transcript.
    """
    XB = rules.shape[1] // tree.information_sets
    rules = rules.reshape(tree.agents, XB, tree.information_sets, tree.messages)
    reach = jnp.ones((XB, 1), rules.dtype)
    levels = []
    for r in range(tree.rounds):
        histories = tree.own_history(r)[latest_slowest(tree, r)]
        levels.append(joint_message_weights(reach, rules[:, :, tree.first(r) : tree.first(r + 1)], histories))
        reach = jnp.tile(levels[-1], (1, tree.joint_replies))
    return levels


def joint_message_weights(
    reach: Float[Array, "XB nodes"], rules: Float[Array, "K XB h M"], histories: Int[np.ndarray, "nodes K"]
) -> Float[Array, "XB N"]:
    """`reach` times the probability of each joint message n, at index n * nodes + node; later agents vary faster in n.

    rules:     distributions over messages in this round, by each agent's own history.
    histories: the own history of each agent at each node.
    """
    XB, nodes = reach.shape
    weights = reach[:, None]
    for rule, own in zip(rules, histories.T, strict=True):
        weights = (weights[:, :, None] * _rule_at_nodes(rule, own)[:, None]).reshape(XB, -1, nodes)
    return weights.reshape(XB, -1)


def _rule_at_nodes(rule: Float[Array, "XB h M"], histories: np.ndarray) -> Float[Array, "XB M nodes"]:
    """rule[xb, histories[node], s]. A matrix product while it is small: the derivative of a gather is slow on a CPU."""
    if rule.shape[1] * len(histories) <= MAX_ONE_HOT:
        return jnp.einsum("bhm,hn->bmn", rule, np.eye(rule.shape[1], dtype=rule.dtype)[:, histories])
    return rule[:, histories].transpose(0, 2, 1)


def latest_slowest(tree: Tree, r: int) -> np.ndarray:
    """The numbers in `Tree` of the joint histories at the start of round r, in the order of `transcript_weights`."""
    order = np.zeros(1, int)
    for _ in range(r):
        said = order * tree.joint_messages + np.arange(tree.joint_messages)[:, None]
        order = (said.ravel() * tree.joint_replies + np.arange(tree.joint_replies)[:, None]).ravel()
    return order


def _reply_order(tree: Tree, r: int) -> np.ndarray:
    """The numbers in `Tree` of the reply nodes of round r, in the order of `transcript_weights`."""
    return (latest_slowest(tree, r) * tree.joint_messages + np.arange(tree.joint_messages)[:, None]).ravel()


def backward_induction(
    tree: Tree, levels, game: ReducedGame, goals: Float[Array, "G XA XB A"], user: AbstractUser
) -> Continuation:
    """The user's replies and actions, and what they lead to for the user and for each goal.

    levels: `transcript_weights`.
    goals:  totals of G parties. If the user breaks ties in favour of the goal that is evaluated, replies and responses
        differ between goals: their leading axis F has size G, otherwise 1.
    """
    XA, acting = game.mass.shape[0], user.acting
    mass = jnp.einsum("bt,xb->xt", levels[-1], game.mass)
    total = jnp.einsum("bt,xba->xta", levels[-1], game.user)
    own_total = jnp.einsum("bt,ixba->ixta", levels[-1], goals)
    options = Options(
        posterior_mean(total, mass),
        pairwise_advantages(acting, lambda x: jnp.einsum("bt,xbn->xtn", levels[-1], x), game.user),
    )
    favoured = goals if user.favours else jnp.zeros_like(goals[:1])
    own_ahead = pairwise_advantages(acting, lambda x: jnp.einsum("bt,ixbn->ixtn", levels[-1], x), favoured)
    favour = (own_total if user.favours else jnp.zeros_like(total)[None], own_ahead)
    response = jax.vmap(lambda *own: acting.respond(options, Options(*own)))(*favour)
    values, own = (response * total).sum(-1), (response * own_total).sum(-1)  # [F, XA, t], [G, XA, t]
    gets = (response * jnp.einsum("bt,xba->xta", levels[-1], game.welfare)).sum(-1)  # [F, XA, t]
    by_cell = None
    if user.plans and user.compares:  # what a transcript leads to, cell by cell, [F, XA, t, XB]
        by_cell = tuple(
            jnp.einsum("fxta,bt,fxba->fxtb", response, levels[-1], jnp.broadcast_to(x, (len(response), *x.shape[-3:])))
            for x in (game.user, favoured)
        )
    replies = []
    for r in reversed(range(tree.rounds - 1)):
        split = (XA, tree.joint_messages, tree.joint_replies, levels[r].shape[1])

        def by_reply(x, split=split):
            """[n, XA, transcript, ...] summed over the next joint message: [n, XA, t, q, ...]."""
            x = x.reshape(len(x), *split, *x.shape[3:]).sum(2)
            return x.swapaxes(2, 3)

        user_totals, own_totals, welfare = by_reply(values), by_reply(own), by_reply(gets)
        mass = jnp.einsum("bt,xb->xt", levels[r], game.mass)
        respond = user.reply(game, tree, r, _reply_order(tree, r))
        cells = None if by_cell is None else tuple(by_reply(x) for x in by_cell)
        ahead = (None, None) if cells is None else tuple(_ahead(x) for x in cells)
        favour = (own_totals if user.favours else jnp.zeros_like(user_totals), ahead[1])
        reply = jax.vmap(lambda *x, respond=respond: respond(Options(*x[:2]), Options(*x[2:])))(
            posterior_mean(user_totals, jnp.broadcast_to(mass, user_totals.shape[:-1])), ahead[0], *favour
        )
        values, own, gets = ((reply * x).sum(-1) for x in (user_totals, own_totals, welfare))
        if cells is not None:
            by_cell = tuple((reply[..., None] * x).sum(3) for x in cells)
        replies.insert(0, reply)
    return Continuation(gets[0], values[0], own, replies, response)


def _ahead(totals: Float[Array, "F XA t q XB"]) -> Float[Array, "F XA t q q"]:
    """By how much each reply beats each other one, over the cells in which it does."""
    return units.advantages(jnp.moveaxis(totals, 3, -1), jnp).sum(3)


def slopes_in_weights(
    tree: Tree, levels, game: ReducedGame, goals: Float[Array, "G XA XB A"], precision, user, reply_weights=None
):
    """d payoff / d W of every goal and round, [G, XB, N] each, for a quantal user: the closed form.

    The first pass goes up the tree: own and value are the totals of the goal and of the user after a transcript. At
    each node with options q, own = sum_q P(q) own_q and P = softmax(precision value_q / D). The second pass goes down:
    own_slope = d payoff / d own, the same for all goals, and value_slope = d payoff / d value, through the softmax.

    reply_weights: [XA, N] own_slope at the first messages; 1 unless these stand for longer transcripts with replies.
    """
    XA = game.mass.shape[0]

    def per_mass(weights):
        return inverse_mass(jnp.einsum("bt,xb->xt", weights, game.mass))

    leaf_inverse = per_mass(levels[-1])
    total = jnp.einsum("bt,xba->axt", levels[-1], game.user)
    own_total = jnp.einsum("bt,ixba->iaxt", levels[-1], goals)
    response = jax.nn.softmax(precision * total * leaf_inverse, axis=0)
    value, own = add_up(response * total, 0), add_up(response * own_total, 1)
    nodes = []
    for r in reversed(range(tree.rounds - 1)):
        split = (XA, tree.joint_messages, tree.joint_replies, levels[r].shape[1])
        options = add_up(value.reshape(split), 1)  # [XA, q, t]
        own_options = add_up(own.reshape(-1, *split), 2)
        rate = precision * per_mass(levels[r])[:, None]
        if user.plans:
            reply = jax.nn.softmax(rate * options, axis=1)
        else:
            reply = user.reply_distribution(game, tree, r, jnp)[:, _reply_order(tree, r)]
            reply = reply.swapaxes(1, 2).astype(value.dtype)
            rate = jnp.zeros_like(rate)
        value, own = add_up(reply * options, 1), add_up(reply * own_options, 2)
        nodes.insert(0, (rate, reply, options, own_options))

    own_slope = jnp.ones_like(value) if reply_weights is None else reply_weights  # [XA, t]
    value_slope = jnp.zeros_like(own)  # [G, XA, t]
    slopes = []
    for r, (rate, reply, options, own_options) in enumerate(nodes):
        reply_slope = own_slope[:, None] * own_options + value_slope[:, :, None] * options  # [G, XA, q, t]
        through_reply = rate * reply * (reply_slope - add_up(reply * reply_slope, 2)[:, :, None])
        by_mass = add_up(through_reply * options, 2) * per_mass(levels[r])
        slopes.append(-jnp.einsum("ixt,xb->ibt", by_mass, game.mass))
        own_slope = jnp.tile((own_slope[:, None] * reply).reshape(XA, -1), (1, tree.joint_messages))
        value_slope = (value_slope[:, :, None] * reply + through_reply).reshape(*value_slope.shape[:2], -1)
        value_slope = jnp.tile(value_slope, (1, 1, tree.joint_messages))
    action_slope = own_slope * own_total + value_slope[:, None] * total  # [G, A, XA, t]
    through_action = precision * leaf_inverse * response * (action_slope - add_up(response * action_slope, 1)[:, None])
    slopes.append(
        jnp.einsum("axt,ixba->ibt", own_slope * response, goals)
        + jnp.einsum("iaxt,xba->ibt", value_slope[:, None] * response + through_action, game.user)
        - jnp.einsum("ixt,xb->ibt", add_up(through_action * total, 1) * leaf_inverse, game.mass)
    )
    return slopes
