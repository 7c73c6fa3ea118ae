"""Conversation: R rounds of messages and replies, then she acts (section 2.4 of docs/model.md).

A transcript t has weights W[t, xb] (agents) and Q[t, xa] (her replies). Each reply is her response to what it is
worth to go on: backward induction over the transcripts, exact because nothing is forgotten.
`users/conversation_tree.py` says how rules are laid out.
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
from emalign_jax.internal.arguments import integer, power, word
from emalign_jax.internal.sums import add_up
from emalign_jax.internal.validation import setting
from emalign_jax.protocols.base import MAX_CELLS, TINY, AbstractProtocol, Payoffs, compared, posterior_mean
from emalign_jax.users.base import AbstractUser, Options
from emalign_jax.users.conversation_tree import Tree

TO = ("each", "all")
MOST_ROUNDS = 100  # of trees that fit into any memory, those with more have one message and no replies
MAX_SELECTOR = 2**16  # histories times nodes


class AbstractConversation(AbstractProtocol):
    """What conversations have in common, however they are evaluated."""

    offsets_pass = True

    rounds: int = eqx.field(static=True, converter=lambda value: integer("rounds", value, 1, MOST_ROUNDS))
    replies: int = setting("replies", 2, integer, 1)
    to: str = setting("to", "each", word, TO)

    def tree(self, agents: int, messages: int) -> Tree:
        return Tree(self.rounds, self.replies, self.to == "all", agents, messages)

    @property
    def title(self):
        return f"{type(self).__name__}, {self.rounds} rounds"

    @property
    def conversation(self):
        return self

    def messages(self, game: Game) -> int:
        """Enough to tell all that he knows in R rounds."""
        return next(m for m in range(1, game.agent_features + 1) if power(m, self.rounds) >= game.agent_features)

    def rows(self, game: Game, messages: int) -> int:
        return game.agent_features * self.tree(1, messages).information_sets


class Conversation(AbstractConversation):
    """rounds: R >= 1, of messages; replies: Q >= 1, her words after each round but the last (1: she says nothing).

    to: "each" agent hears a reply of his own and nothing of the others; or one reply goes to "all".
    """

    name = "conversation"

    def full_revelation_is_heard(self, agents):
        return True

    def payoffs(self, game: ReducedGame, schemes: Float[Array, "K rows M"], user: AbstractUser) -> Payoffs:
        tree = self.tree(len(schemes), schemes.shape[-1])
        levels = weigh(tree, schemes)
        talk = converse(tree, levels, game, game.agents, user)
        return Payoffs(talk.value.sum(), talk.own.sum((1, 2)))

    def pseudo_gradient(
        self, game: ReducedGame, schemes: Float[Array, "K rows M"], user: AbstractUser
    ) -> Float[Array, "K rows M"]:
        if user.acting.logit_precision is None:
            return super().pseudo_gradient(game, schemes, user)
        slopes = self._slopes(game, schemes, game.agents, user)  # [K of whose payoff, K of whose rule, rows, M]
        return jnp.einsum("iirm->irm", slopes)

    def own_slope(self, game, schemes, agent, user):
        if user.acting.logit_precision is None:
            return super().own_slope(game, schemes, agent, user)
        goal = jnp.einsum("i,ixba->xba", agent, game.agents)
        return jnp.einsum("i,irm->rm", agent, self._slopes(game, schemes, goal[None], user)[0])

    def _slopes(self, game, schemes, goals, user):
        tree = self.tree(len(schemes), schemes.shape[-1])
        levels, pull = jax.vjp(lambda s: weigh(tree, s), schemes)
        return jax.vmap(pull)(slopes_in_weights(tree, levels, game, goals, user.acting.logit_precision, user))[0]

    def law(
        self, game: ReducedGame, scheme: Float[Array, "rows M"], goal: Float[Array, "XA XB A"], user: AbstractUser
    ) -> Float[Array, "XA XB A"]:
        """P(a | x_A, x_B) when she talks to one agent alone, her ties in favour of `goal`."""
        tree = self.tree(1, scheme.shape[-1])
        levels = weigh(tree, scheme[None])
        talk = converse(tree, levels, game, goal[None], user)
        heard = jnp.ones((len(goal), tree.messages), scheme.dtype)  # Q: she gives these replies, [XA, t]
        for reply in talk.replies:
            heard = jnp.tile((heard[:, None] * reply[0].swapaxes(1, 2)).reshape(len(goal), -1), (1, tree.messages))
        return jnp.einsum("xta,xt,bt->xba", talk.response[0], heard, levels[-1])

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
    """A sentence: of each size, the largest smaller one with `cells(**sizes)` within the limit."""
    fits = []
    for field, most in sizes.items():
        largest = bisect.bisect_right(range(1, most), MAX_CELLS, key=lambda n, field=field: cells(**sizes | {field: n}))
        if largest:
            fits.append(f"{field} = {largest}")
    return f"The largest that fits, all else as it is: {', or '.join(fits) or 'none'}"


class Talk(NamedTuple):
    """value [XA, M^K] and own [G, XA, M^K]: what the first messages lead to, times their probability; replies, a
    round: [1 or G, XA, reply nodes, q]; response [1 or G, XA, leaves, A]."""

    value: Float[Array, "XA N"]
    own: Float[Array, "G XA N"]
    replies: list[Float[Array, "F XA N q"]]
    response: Float[Array, "F XA N A"]


def weigh(tree: Tree, rules: Float[Array, "K rows M"]) -> list[Float[Array, "XB N"]]:
    """For each round, the probability W of every transcript that ends with messages, her replies given.

    Transcripts are in an order of their own, the latest message or reply slowest, so that sums over what comes last run
    along whole rows of memory: transcript' = (message * joint replies + reply) * transcripts + transcript.
    """
    XB = rules.shape[1] // tree.information_sets
    rules = rules.reshape(tree.agents, XB, tree.information_sets, tree.messages)
    reach = jnp.ones((XB, 1), rules.dtype)
    levels = []
    for r in range(tree.rounds):
        histories = tree.own_history(r)[latest_slowest(tree, r)]
        levels.append(speak(reach, rules[:, :, tree.first(r) : tree.first(r + 1)], histories))
        reach = jnp.tile(levels[-1], (1, tree.joint_replies))
    return levels


def speak(
    reach: Float[Array, "XB nodes"], laws: Float[Array, "K XB h M"], histories: Int[np.ndarray, "nodes K"]
) -> Float[Array, "XB N"]:
    """`reach` times the probability of every joint message, later agents slowest; histories: of each agent there."""
    XB, nodes = reach.shape
    now = reach[:, None]
    for law, own in zip(laws, histories.T, strict=True):
        now = (now[:, :, None] * _spread(law, own)[:, None]).reshape(XB, -1, nodes)
    return now.reshape(XB, -1)


def _spread(law: Float[Array, "XB h M"], histories: np.ndarray) -> Float[Array, "XB M nodes"]:
    """law[xb, histories[node], s], as a product while it is small: the reverse of a gather is slow on a CPU."""
    if law.shape[1] * len(histories) <= MAX_SELECTOR:
        return jnp.einsum("bhm,hn->bmn", law, np.eye(law.shape[1], dtype=law.dtype)[:, histories])
    return law[:, histories].transpose(0, 2, 1)


def latest_slowest(tree: Tree, r: int) -> np.ndarray:
    """Joint histories at the start of round r, in the order of `weigh`, by their number in the tree."""
    order = np.zeros(1, int)
    for _ in range(r):
        said = order * tree.joint_messages + np.arange(tree.joint_messages)[:, None]
        order = (said.ravel() * tree.joint_replies + np.arange(tree.joint_replies)[:, None]).ravel()
    return order


def _reply_order(tree: Tree, r: int) -> np.ndarray:
    """The transcripts of round r at which she replies, in the order of `weigh`, by their number in the tree."""
    return (latest_slowest(tree, r) * tree.joint_messages + np.arange(tree.joint_messages)[:, None]).ravel()


def converse(tree: Tree, levels, game: ReducedGame, goals: Float[Array, "G XA XB A"], user: AbstractUser) -> Talk:
    """Backward induction. Ties may be broken in favour of each goal, so replies and responses can be one a goal, on a
    leading axis F (G or 1)."""
    XA, acting = game.mass.shape[0], user.acting
    mass = jnp.einsum("bt,xb->xt", levels[-1], game.mass)
    total = jnp.einsum("bt,xba->xta", levels[-1], game.user)
    own_total = jnp.einsum("bt,ixba->ixta", levels[-1], goals)
    options = Options(
        posterior_mean(total, mass), compared(acting, lambda x: jnp.einsum("bt,xbn->xtn", levels[-1], x), game.user)
    )
    favoured = goals if user.favours else jnp.zeros_like(goals[:1])
    own_ahead = compared(acting, lambda x: jnp.einsum("bt,ixbn->ixtn", levels[-1], x), favoured)
    favour = (own_total if user.favours else jnp.zeros_like(total)[None], own_ahead)
    response = jax.vmap(lambda *own: acting.respond(options, Options(*own)))(*favour)
    values, own = (response * total).sum(-1), (response * own_total).sum(-1)  # [F, XA, t], [G, XA, t]
    by_cell = None
    if user.plans and user.compares:  # what a transcript leads to, cell by cell, [F, XA, t, XB]
        by_cell = tuple(
            jnp.einsum("fxta,bt,fxba->fxtb", response, levels[-1], jnp.broadcast_to(x, (len(response), *x.shape[-3:])))
            for x in (game.user, favoured)
        )
    replies = []
    for r in reversed(range(tree.rounds - 1)):
        split = (XA, tree.joint_messages, tree.joint_replies, levels[r].shape[1])

        def of_replies(x, split=split):
            """[n, XA, transcript, ...] summed over what the agents say next: [n, XA, t, q, ...]."""
            x = x.reshape(len(x), *split, *x.shape[3:]).sum(2)
            return x.swapaxes(2, 3)

        hers, his = of_replies(values), of_replies(own)
        mass = jnp.einsum("bt,xb->xt", levels[r], game.mass)
        respond = user.reply(game, tree, r, _reply_order(tree, r))
        cells = None if by_cell is None else tuple(of_replies(x) for x in by_cell)
        ahead = (None, None) if cells is None else tuple(_ahead(x) for x in cells)
        favour = (his if user.favours else jnp.zeros_like(hers), ahead[1])
        reply = jax.vmap(lambda *x, respond=respond: respond(Options(*x[:2]), Options(*x[2:])))(
            posterior_mean(hers, jnp.broadcast_to(mass, hers.shape[:-1])), ahead[0], *favour
        )
        values, own = (reply * hers).sum(-1), (reply * his).sum(-1)
        if cells is not None:
            by_cell = tuple((reply[..., None] * x).sum(3) for x in cells)
        replies.insert(0, reply)
    return Talk(values[0], own, replies, response)


def _ahead(worth: Float[Array, "F XA t q XB"]) -> Float[Array, "F XA t q q"]:
    """By how much each reply beats each other one, over the cells in which it does."""
    return units.advantages(jnp.moveaxis(worth, 3, -1), jnp).sum(3)


def slopes_in_weights(
    tree: Tree, levels, game: ReducedGame, goals: Float[Array, "G XA XB A"], precision, user, heard=None
):
    """d payoff / d W of every goal and round, [G, XB, N] each, for a quantal user: the closed form.

    own and value are what a transcript leads to, times its probability given her replies, for the goal and for her. At
    each node with options q, own = sum_q P(q) own_q and P = softmax(precision value_q / D). Downwards, `heard` is
    d payoff / d own (the same for all goals) and `pull` is d payoff / d value, which the softmax brings in. At the
    first messages `heard` [XA, N] is 1, unless they stand for longer transcripts in which she has said things before.
    """
    XA = game.mass.shape[0]

    def per_mass(weights):
        mass = jnp.einsum("bt,xb->xt", weights, game.mass)
        return jnp.where(mass > TINY, 1 / jnp.where(mass > TINY, mass, 1), 0)

    inverse = per_mass(levels[-1])
    total = jnp.einsum("bt,xba->axt", levels[-1], game.user)
    own_total = jnp.einsum("bt,ixba->iaxt", levels[-1], goals)
    response = jax.nn.softmax(precision * total * inverse, axis=0)
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
            reply = user.reply_law(game, tree, r, jnp)[:, _reply_order(tree, r)].swapaxes(1, 2).astype(value.dtype)
            rate = jnp.zeros_like(rate)
        value, own = add_up(reply * options, 1), add_up(reply * own_options, 2)
        nodes.insert(0, (rate, reply, options, own_options))

    heard = jnp.ones_like(value) if heard is None else heard  # [XA, t]
    pull = jnp.zeros_like(own)  # [G, XA, t]
    slopes = []
    for r, (rate, reply, options, own_options) in enumerate(nodes):
        worth = heard[:, None] * own_options + pull[:, :, None] * options  # [G, XA, q, t]
        tilt = rate * reply * (worth - add_up(reply * worth, 2)[:, :, None])
        by_mass = add_up(tilt * options, 2) * per_mass(levels[r])
        slopes.append(-jnp.einsum("ixt,xb->ibt", by_mass, game.mass))
        heard = jnp.tile((heard[:, None] * reply).reshape(XA, -1), (1, tree.joint_messages))
        pull = jnp.tile((pull[:, :, None] * reply + tilt).reshape(*pull.shape[:2], -1), (1, 1, tree.joint_messages))
    worth = heard * own_total + pull[:, None] * total  # [G, A, XA, t]
    tilt = precision * inverse * response * (worth - add_up(response * worth, 1)[:, None])
    slopes.append(
        jnp.einsum("axt,ixba->ibt", heard * response, goals)
        + jnp.einsum("iaxt,xba->ibt", pull[:, None] * response + tilt, game.user)
        - jnp.einsum("ixt,xb->ibt", add_up(tilt * total, 1) * inverse, game.mass)
    )
    return slopes
