"""Conversation: R rounds of messages and replies, then she acts (section 2 of the model).

A transcript t has weights W[t, xb] (agents) and Q[t, xa] (her replies). Each reply is her response to what it is
worth to go on: backward induction over the transcripts, exact because she forgets nothing. `tree.py` says how rules
are laid out.
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from emalign_jax.arguments import integer
from emalign_jax.game import Array, Game, ReducedGame
from emalign_jax.protocols._base import MAX_CELLS, AbstractProtocol, Payoffs, posterior_mean, user_scale
from emalign_jax.tree import Tree
from emalign_jax.users import AbstractUser

TO = ("each", "all")


class Conversation(AbstractProtocol):
    """rounds: R >= 1, of messages; replies: Q >= 1, her words after each round but the last (1: she says nothing).

    to: "each" agent hears a reply of his own and nothing of the others; or one reply goes to "all".
    """

    rounds: int = eqx.field(static=True)
    replies: int = eqx.field(static=True, default=2)
    to: str = eqx.field(static=True, default="each")

    def __check_init__(self):
        integer("rounds", self.rounds, 1)
        integer("replies", self.replies, 1)
        if self.to not in TO:
            raise ValueError(f"to: expected one of {', '.join(TO)}, got {self.to!r}")

    def tree(self, agents: int, messages: int) -> Tree:
        return Tree(self.rounds, self.replies, self.to == "all", agents, messages)

    def payoffs(self, game: ReducedGame, schemes: Float[Array, "K rows M"], user: AbstractUser) -> Payoffs:
        tree = self.tree(len(schemes), schemes.shape[-1])
        levels = weigh(tree, schemes)
        talk = _talk(tree, levels, game, game.agents, user)
        return Payoffs(talk.value.sum(), talk.own.sum((1, 2)))

    def pseudo_gradient(
        self, game: ReducedGame, schemes: Float[Array, "K rows M"], user: AbstractUser
    ) -> Float[Array, "K rows M"]:
        if user.smoothed(1.0) is not user:
            raise ValueError(
                "user: payoffs of a rational user's conversation jump; take user.smoothed(precision) for gradients"
            )
        tree = self.tree(len(schemes), schemes.shape[-1])
        levels, pull = jax.vjp(lambda s: weigh(tree, s), schemes)

        def own(levels):
            return _talk(tree, levels, game, game.agents, user).own.sum((1, 2))

        _, back = jax.vjp(own, levels)
        (by_level,) = jax.vmap(back)(jnp.eye(len(schemes), dtype=schemes.dtype))
        (slopes,) = jax.vmap(pull)(by_level)  # [K of whose payoff, K of whose rule, rows, M]
        return jnp.einsum("iirm->irm", slopes)

    def law(
        self, game: ReducedGame, scheme: Float[Array, "rows M"], goal: Float[Array, "XA XB A"], user: AbstractUser
    ) -> Float[Array, "XA XB A"]:
        """P(a | x_A, x_B) when she talks to one agent alone, her ties in favour of `goal`."""
        tree = self.tree(1, scheme.shape[-1])
        levels = weigh(tree, scheme[None])
        talk = _talk(tree, levels, game, goal[None], user)
        heard = jnp.ones((len(goal), 1), scheme.dtype)  # Q: she gives these replies, [XA, nodes]
        for reply, level in zip(talk.replies, levels, strict=False):
            heard = (jnp.repeat(heard, level.shape[1], axis=1)[..., None] * reply[0]).reshape(len(goal), -1)
        heard = jnp.repeat(heard, levels[-1].shape[1], axis=1)
        return jnp.einsum("xta,xt,tb->xba", talk.response[0], heard, levels[-1].reshape(tree.leaves, -1))

    def smoothed(self, temperature) -> Conversation:
        return self

    @property
    def conversation(self):
        return self

    def messages(self, game: Game) -> int:
        return game.agent_features

    def rows(self, game: Game, messages: int) -> int:
        return game.agent_features * self.tree(1, messages).information_sets

    def cells(self, game: Game, messages: int) -> int:
        return self.tree(game.agents, messages).cells(game.user_features, game.actions)

    def check(self, game: Game, messages: int) -> None:
        cells = self.cells(game, messages)
        if cells <= MAX_CELLS:
            return
        fits = []
        for field, most in (("rounds", self.rounds), ("messages", messages), ("replies", self.replies)):
            smaller = [n for n in range(1, most) if self._with(field, n, game, messages) <= MAX_CELLS]
            if smaller:
                fits.append(f"{field} = {smaller[-1]}")
        raise ValueError(
            f"rounds, messages, replies: {self.rounds} rounds with {game.agents} agents, {messages} messages and "
            f"{self.replies} replies (to {self.to}) need {8 * cells:.3g} bytes a game; the limit is "
            f"{8 * MAX_CELLS:.3g}. The largest that fits, all else as it is: {', or '.join(fits) or 'none'}"
        )

    def _with(self, field: str, n: int, game: Game, messages: int) -> int:
        sizes = {"rounds": self.rounds, "replies": self.replies, "messages": messages} | {field: n}
        tree = Tree(sizes["rounds"], sizes["replies"], self.to == "all", game.agents, sizes["messages"])
        return tree.cells(game.user_features, game.actions)


class Talk(NamedTuple):
    """value [XA, M^K] and own [G, XA, M^K]: what the first messages lead to, times their probability; replies, a
    round: [1 or G, XA, reply nodes, q]; response [1 or G, XA, leaves, A]."""

    value: Float[Array, "XA N"]
    own: Float[Array, "G XA N"]
    replies: list[Float[Array, "F XA N q"]]
    response: Float[Array, "F XA N A"]


def weigh(tree: Tree, rules: Float[Array, "K rows M"]) -> list[Float[Array, "nodes N XB"]]:
    """For each round, the probability W of every joint history and joint message, her replies given."""
    rules = rules.reshape(tree.agents, -1, tree.information_sets, tree.messages)
    reach = jnp.ones((1, rules.shape[1]), rules.dtype)
    levels = []
    for r in range(tree.rounds):
        own = tree.own_history(r)
        now = reach[:, None]
        for rule, histories in zip(rules, own.T, strict=True):
            law = rule[:, tree.first(r) + histories].transpose(1, 2, 0)  # [nodes, M, XB]
            now = (now[:, :, None] * law[:, None]).reshape(len(own), -1, rules.shape[1])
        levels.append(now)
        reach = jnp.repeat(now.reshape(-1, rules.shape[1]), tree.joint_replies, axis=0)
    return levels


def _talk(tree: Tree, levels, game: ReducedGame, goals: Float[Array, "G XA XB A"], user: AbstractUser) -> Talk:
    """Backward induction. Ties may be broken in favour of each goal, so replies and responses can be one a goal."""
    XA = game.mass.shape[0]
    scale = user_scale(game)
    weights = levels[-1].reshape(tree.leaves, -1)
    mass = jnp.einsum("tb,xb->xt", weights, game.mass)
    total = jnp.einsum("tb,xba->xta", weights, game.user)
    own_total = jnp.einsum("tb,ixba->ixta", weights, goals)
    response = _respond(user.acting.respond, posterior_mean(total, mass), own_total, scale, user)
    values = (response * total).sum(-1)  # [F, XA, t], the same for all F but for rounding
    own = (response * own_total).sum(-1)
    replies = []
    for r in reversed(range(tree.rounds - 1)):
        shape = (XA, tree.reply_nodes(r), tree.joint_replies, tree.joint_messages)
        options = values[0].reshape(shape).sum(-1)
        own_options = own.reshape(len(own), *shape).sum(-1)
        mass = jnp.einsum("tb,xb->xt", levels[r].reshape(shape[1], -1), game.mass)
        reply = _respond(user.reply(game, tree, r), posterior_mean(options, mass), own_options, scale, user)
        values, own = (reply * options).sum(-1), (reply * own_options).sum(-1)
        replies.insert(0, reply)
    return Talk(values[0], own, replies, response)


def _respond(respond, means, favours, scale, user):
    """[F, ...]: one law for all goals, or one a goal where ties go to the agent whose payoff it is."""
    if not user.favours:
        return respond(means, jnp.zeros_like(means), scale)[None]
    return respond(jnp.broadcast_to(means, favours.shape), favours, scale)
