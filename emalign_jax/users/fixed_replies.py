"""A user that replies in a conversation by a fixed rule: the non-strategic user of arXiv 2509.15090."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float

from emalign_jax.games import units
from emalign_jax.games.game import Array, Game, ReducedGame
from emalign_jax.internal.arguments import shown
from emalign_jax.internal.validation import as_float_array
from emalign_jax.users.base import AbstractUser
from emalign_jax.users.conversation_tree import Tree

RULES = ("babbling", "truthful", "questions")
GIVEN = "given"


class FixedReplies(AbstractUser):
    """A user that replies by a given rule, whatever the agents have committed to, and acts as another user does.

    Args:
        rule: the name of a rule, or an array [..., XA, nodes, q], the probability of each of the q joint replies at
            each reply node, in the order of `Tree.first_reply`, round by round. Names are: "babbling": every reply is
            equally likely; "truthful": x_A is reported to every agent, digit by digit in base Q, the last digits in the
            last rounds (needs Q^(R-1) >= XA); "questions": one of at most Q^(R-1) questions is reported. A question is
            the list of the best actions at each x_B for some x_A; another x_A that acted on its answer would lose
            something. Questions are chosen greedily, so that the losses of all x_A, each with the question by which it
            loses least, add up to the least; each x_A reports this question.
        acting: the user by which the final action is taken.

    Raises:
        ValueError: names the field and the rule; for a rule that does not fit the conversation, when it is used.

    Example:
        >>> game, protocol = em.catalog.what_to_ask(bits=2), em.Conversation(rounds=2, replies=2)
        >>> user = em.FixedReplies("truthful", em.RationalUser())
        >>> silent = em.no_information(1, protocol.rows(game, 2), 2)
        >>> float(em.payoffs(game, silent, protocol, user).user)
        0.5

    Source: section 3.3 of docs/model.md.
    """

    actor: AbstractUser
    given: Float[Array, "*batch XA nodes q"] | None
    rule: str = eqx.field(static=True)

    def __init__(self, rule: Any, acting: AbstractUser):
        if isinstance(acting, FixedReplies):
            raise ValueError("acting: expected a user such as RationalUser(), got FixedReplies")
        if not isinstance(acting, AbstractUser):
            raise ValueError(f"acting: expected a user such as RationalUser(), got {shown(acting)}")
        if acting.plain is not acting:
            raise ValueError(
                f"acting: {type(acting).__name__} misreads beliefs, which must hold for replies too: wrap the "
                f"FixedReplies itself, {type(acting).__name__}(FixedReplies(...), ...)"
            )
        self.actor = acting
        if isinstance(rule, str):
            if rule not in RULES:
                raise ValueError(f"rule: expected one of {', '.join(RULES)} or an array, got {rule!r}")
            self.rule, self.given = rule, None
            return
        self.rule = GIVEN
        try:
            rule = as_float_array("rule", rule)
            self.given = rule if isinstance(rule, jax.Array) else np.asarray(rule, np.float64)
        except ValueError:
            raise ValueError("rule: expected a rectangular array of numbers or the name of a rule") from None
        if self.given.ndim < 3:
            raise ValueError(f"rule: expected an array [..., XA, nodes, replies], got shape {list(self.given.shape)}")
        if not isinstance(self.given, Tracer):
            wrong = ~(np.asarray(self.given) >= 0) | (abs(np.asarray(self.given).sum(-1, keepdims=True) - 1) > 1e-5)
            if wrong.any():
                where = [int(x) for x in np.argwhere(wrong)[0][:-1]]
                raise ValueError(f"rule{where}: expected probabilities >= 0 that sum to 1 over the replies")

    @property
    def title(self):
        return f"{self.acting.title} who replies by rule ({self.rule})"

    def respond(self, options, favour):
        return self.acting.respond(options, favour)

    @property
    def compares(self):
        return self.acting.compares

    @property
    def is_smooth(self):
        """Whether the final action is differentiable."""
        return self.acting.is_smooth

    @property
    def most_forgone(self):
        return self.acting.most_forgone

    @property
    def tie_tolerance(self):
        return self.acting.tie_tolerance

    @property
    def plans(self):
        return False

    @property
    def has_word_distribution(self):
        return self.given is None

    def reply(self, game: ReducedGame, tree: Tree, r: int, order: np.ndarray):
        given = self.reply_distribution(game, tree, r, jnp)[:, order]
        return lambda options, favour: jnp.broadcast_to(jnp.asarray(given, options.value.dtype), options.value.shape)

    def reply_distribution(self, game: ReducedGame, tree: Tree, r: int, xp) -> Float[Array, "XA nodes q"]:
        """The probability of each joint reply at each reply node of a round.

        Args:
            game: one game.
            tree: of the conversation.
            r: the round, from 0.
            xp: numpy or jax.numpy.
        """
        nodes = tree.reply_nodes(r)
        if self.given is not None:
            at = tree.first_reply(r)
            return xp.asarray(self.given)[:, at : at + nodes]
        words = tree.joint_reply[:, :1] if tree.reply_to_all else tree.joint_reply
        joint = self.word_distribution(game, tree, r, xp)[:, words].prod(-1)
        return xp.broadcast_to(joint[:, None], (len(joint), nodes, tree.joint_replies))

    def word_distribution(self, game: ReducedGame, tree: Tree, r: int, xp) -> Float[Array, "XA Q"]:
        """The probability of each reply in a round by a rule with a name, whatever was said before.

        Replies to different agents are independent given x_A. Arguments as of `reply_distribution`.
        """
        XA = game.mass.shape[0]
        if self.rule == "babbling":
            return xp.full((XA, tree.replies), 1 / tree.replies)
        said = xp.arange(XA) if self.rule == "truthful" else _questions(game.user, _capacity(tree), xp)
        digit = said // tree.replies ** (tree.rounds - 2 - r) % tree.replies
        return (xp.arange(tree.replies) == digit[:, None]).astype(float)

    def check(self, games: Game, protocol: Any, messages: int) -> None:
        conversation = protocol.conversation
        if conversation is None:
            raise ValueError(
                f"user: FixedReplies needs a Conversation, there are no replies in {type(protocol).__name__}"
            )
        tree = conversation.tree(1 if conversation is not protocol else games.agents, messages)
        if self.given is not None:
            expected = (games.user_features, tree.first_reply(tree.rounds - 1), tree.joint_replies)
            if self.given.shape[-3:] != expected:
                raise ValueError(
                    f"rule: expected shape [..., XA = {expected[0]}, nodes = {expected[1]}, replies = {expected[2]}] "
                    f"in {tree.rounds} rounds with {tree.agents} agents, {messages} messages and {tree.replies} "
                    f"replies, got {list(self.given.shape)}"
                )
        if self.rule == "truthful" and _capacity(tree) < games.user_features:
            raise ValueError(
                f'rule: "truthful" needs replies^(rounds - 1) >= XA = {games.user_features} to report x_A, got '
                f'{tree.replies}^{tree.rounds - 1}: take more replies or rounds, or "questions"'
            )

    @property
    def acting(self):
        return self.actor

    @property
    def favours(self):
        return self.actor.favours

    def smoothed(self, precision):
        acting = self.acting.smoothed(precision)
        return self if acting is self.acting else eqx.tree_at(lambda user: user.actor, self, acting)

    def in_units(self, unit):
        return eqx.tree_at(lambda user: user.actor, self, self.acting.in_units(unit))

    def axes(self):
        axes = jax.tree.map(lambda _: 0, self)
        return axes if self.given is None else eqx.tree_at(lambda user: user.given, axes, 3)


def _capacity(tree: Tree) -> int:
    """How many different sequences of replies one agent can get."""
    return tree.replies ** (tree.rounds - 1)


def _questions(user: Float[Array, "XA XB A"], count: int, xp) -> Array:
    """The question that each x_A reports, counted from 0 (see `FixedReplies`)."""
    XA = user.shape[0]
    most = user.max(-1)
    # Costs within this of each other are equal, so that rounding, in float32 too, decides nothing.
    tied = 10 * units.TIE_TOLERANCE * units.unit(user, units.most_likely(user, xp=xp), xp)
    best = units.as_good(units.advantages(user, xp), 0.0, xp).all(-1).argmax(-1)  # [XA, XB]
    taken = xp.take_along_axis(user[:, None], xp.broadcast_to(best[None, :, :, None], (XA, XA, *best.shape[1:], 1)), -1)
    loss = most.sum(-1)[:, None] - taken[..., 0].sum(-1)  # [type, question]
    nearest, asked = xp.full(XA, xp.inf), xp.zeros(XA, int)
    for question in range(min(count, XA)):
        left = xp.minimum(nearest[:, None], loss).sum(0)
        candidate = loss[:, (left <= left.min() + tied).argmax()]
        better = candidate < nearest - tied
        nearest, asked = xp.where(better, candidate, nearest), xp.where(better, question, asked)
    return asked
