"""SampledConversation: conversations too large to enumerate, by unbiased estimates with stated errors.

A payoff is U_i = sum_t sum_xa Q[t, xa] f_i(W[t, :], xa): what a transcript t adds depends on its weights alone (section
2.4 of docs/model.md). Only t is drawn. Given t, its weights W at every x_B, the posterior, the response and what
everybody gets are exact, so that each drawn transcript is averaged over x_A and x_B. f_i is homogeneous of degree one
in W. With p the probability of drawing t, all x_A and x_B counted, `f_i(W / p)` is therefore an estimate of U_i that
never leaves the range of agent i's payoffs, and its derivative by W, p held fixed, is one of the gradient: score
function and pathwise part in one.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Float, Int

from emalign_jax.games.game import Array, Game, ReducedGame
from emalign_jax.internal.arguments import BELOW_ONE, integer, number, shown, truth
from emalign_jax.internal.validation import setting
from emalign_jax.protocols.base import MAX_CELLS, Payoffs
from emalign_jax.protocols.conversation import (
    AbstractConversation,
    converse,
    latest_slowest,
    sizes_that_fit,
    slopes_in_weights,
    speak,
)
from emalign_jax.users.base import AbstractUser
from emalign_jax.users.conversation_tree import Tree
from emalign_jax.users.fixed_replies import FixedReplies


class SampledPayoffs(NamedTuple):
    """user [...] and agents [..., K]: estimated payoffs; user_error, agents_error: their standard errors."""

    user: Float[Array, "*batch"]
    agents: Float[Array, "*batch K"]
    user_error: Float[Array, "*batch"]
    agents_error: Float[Array, "*batch K"]


class SampledGradient(NamedTuple):
    """mean [..., K, rows, M]: estimated d U_i / d scheme_i; error: standard errors, one a number.

    An error is itself estimated from the drawn transcripts: 0 at information sets to which none of them came.
    """

    mean: Float[Array, "*batch K rows M"]
    error: Float[Array, "*batch K rows M"]


def _integers(name: str, value) -> Int[Array, "*batch"]:
    try:
        array = value if isinstance(value, jax.Array) else np.asarray(value)
    except ValueError:  # ragged
        array = np.zeros(0)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name}: expected an integer, or an array of them over the batch, got {shown(value)}")
    return array


class SampledConversation(AbstractConversation):
    """A `Conversation` of which `samples` transcripts are drawn; payoffs and gradients are estimates.

    rounds, replies, to: as in `Conversation`.
    samples:  transcripts, an even number. They are drawn in pairs, a pair from each slice of the law of (x_A, x_B), and
              the standard error comes from the differences within pairs.
    seed:     an integer, or an array of them over the batch (then games have numbers of their own). The random numbers
              depend on seed and step alone: schemes are compared on common random numbers, and a game's estimates do
              not depend on its batch. Play takes fresh numbers in each step.
    explore:  share, in [0, 1), of the transcripts drawn for gradients in which one message of one agent is uniform, so
              that what is never said is tried as well; with 0 the slopes of messages of probability 0 are missed.
    baseline: subtract from what a message leads to what x_B leads to on average, which costs nothing in expectation.
    step:     of play, see `at_step`.

    Payoffs and pseudo-gradient are unbiased, and so are squared errors. What is computed from them in a non-linear way
    is not: the largest slope, the gap that play reports, a best response to estimates.

    A user of `FixedReplies` (by name) can talk for any number of rounds with any number of agents, as long as their
    rules fit. One who plans her replies weighs what follows, which must be exact: only the first messages are drawn,
    and all that can follow each of them is enumerated. In one round there is nothing to plan.
    """

    samples: int = setting("samples", 256, integer, 2)
    seed: Int[Array, "*batch"] = eqx.field(converter=lambda value: _integers("seed", value), default=0)
    explore: float = setting("explore", 0.25, number, *BELOW_ONE)
    baseline: bool = setting("baseline", True, truth)
    step: Int[Array, "*batch"] = eqx.field(converter=lambda value: _integers("step", value), default=0)

    exact_payoffs = False

    def __check_init__(self):
        if self.samples % 2:
            raise ValueError(f"samples: expected an even number, they are drawn in pairs, got {self.samples}")

    def full_revelation_is_heard(self, agents):
        return True

    def payoffs(self, game: ReducedGame, schemes: Float[Array, "K rows M"], user: AbstractUser) -> Payoffs:
        got = self.sampled_payoffs(game, schemes, user)
        return Payoffs(got.user, got.agents)

    def pseudo_gradient(
        self, game: ReducedGame, schemes: Float[Array, "K rows M"], user: AbstractUser
    ) -> Float[Array, "K rows M"]:
        return self.sampled_gradient(game, schemes, user).mean

    def sampled_payoffs(
        self, game: ReducedGame, schemes: Float[Array, "K rows M"], user: AbstractUser
    ) -> SampledPayoffs:
        tree, rules = self._unfold(schemes)
        drawn = self._draw(game, rules, tree, user, explore=0.0)
        if self._depth(user) == self.rounds:
            talk = converse(_at_once(tree), [drawn.weight.T], game, game.agents, user)
            value, own = (drawn.heard.T * talk.value).sum(0), (drawn.heard.T * talk.own).sum(1).T
        else:

            def one(first):
                talk = converse(tree, _what_follows(tree, rules, *first), game, game.agents, user)
                return talk.value.sum(), talk.own.sum((1, 2))

            value, own = jax.lax.map(one, (drawn.weight, drawn.said[:, 0]))
        error = lambda x: jnp.sqrt((_pairs(x) ** 2).sum(0)) / self.samples  # noqa: E731
        return SampledPayoffs(value.mean(), own.mean(0), error(value), error(own))

    def sampled_gradient(
        self, game: ReducedGame, schemes: Float[Array, "K rows M"], user: AbstractUser
    ) -> SampledGradient:
        self.check_smooth(user)
        if user.acting.logit_precision is None:
            raise ValueError(f"user: sampled gradients know QuantalUser alone, got {type(user.acting).__name__}")
        tree, rules = self._unfold(schemes)
        drawn = self._draw(game, rules, tree, user, self.explore)
        slope, later = self._slopes(game, rules, tree, user, drawn)
        total, square = self._collect(rules, tree, drawn, slope)
        if later is not None:
            total, square = total + later.sum(0), square + (_pairs(later) ** 2).sum(0)
        error = jnp.sqrt(jnp.maximum(square, 0))
        return SampledGradient(*((x / self.samples).reshape(schemes.shape) for x in (total, error)))

    def _slopes(self, game, rules, tree, user, drawn: _Drawn):
        """[S, K, XB] d payoff_i / d weight of each drawn transcript; [S, K, XB, H, M] d payoff_i / d rule_i in the
        rounds that are enumerated, None if there are none."""
        precision = user.acting.logit_precision
        if self._depth(user) == self.rounds:
            (slope,) = slopes_in_weights(
                _at_once(tree), [drawn.weight.T], game, game.agents, precision, user, drawn.heard.T
            )
            return slope.transpose(2, 0, 1), None

        def one(first):  # one after the other: vmapped in float32, XLA on a CPU (0.10.2) computes nonsense or crashes
            weight, said = first
            levels, pull = jax.vjp(lambda w, x: _what_follows(tree, x, w, said), weight, rules)
            slope, later = jax.vmap(pull)(slopes_in_weights(tree, levels, game, game.agents, precision, user))
            return slope, jnp.einsum("iixhm->ixhm", later)

        return jax.lax.map(one, (drawn.weight, drawn.said[:, 0]))

    def _collect(self, rules, tree, drawn: _Drawn, slope):
        """The sum over transcripts of d payoff_i / d rule_i in the rounds that are drawn, and of squared differences
        within pairs.

        A transcript has a say in one row a round: the slope times its weight but for the message sent there, at that
        message. The baseline times the weights' own derivative, less the mean over the messages, is 0 in expectation.
        Each half of the samples takes it from the other half, so that it stays so.
        """
        level = jnp.zeros_like(slope)
        if self.baseline:
            halves = lambda x: x.reshape(2, -1, *x.shape[1:]).sum(1)  # noqa: E731
            sent = drawn.mass * drawn.weight
            gained, met = halves(slope * drawn.weight[:, None]), halves(sent)[:, None]
            level = jnp.where(met > 0, gained / jnp.where(met > 0, met, 1), 0)[::-1]
            level = jnp.repeat(level, self.samples // 2, 0) * drawn.mass[:, None]
        here = jax.nn.one_hot(drawn.said, tree.messages, dtype=slope.dtype)[..., None, :]  # [S, r, K, 1, M]
        values = here * ((slope - level)[:, None] * drawn.others)[..., None]
        values += (level * drawn.weight[:, None])[:, None, ..., None]
        partner = jnp.where((drawn.row == _partner(drawn.row))[..., None, None], _partner(values), 0)
        where = np.arange(tree.agents), slice(None), drawn.row
        return tuple(jnp.zeros_like(rules).at[where].add(x) for x in (values, values * (values - partner)))

    def _draw(self, game: ReducedGame, rules, tree: Tree, user: Any, explore: float) -> _Drawn:
        S, K, M, depth = self.samples, tree.agents, tree.messages, self._depth(user)
        channels = 1 if tree.together else K
        key = jax.random.fold_in(jax.random.key(self.seed), self.step)
        noise = jax.random.uniform(key, (2 + depth * (K + channels), S), rules.dtype)
        slices = (jnp.asarray(np.arange(S) % (S // 2), noise.dtype) + noise[0]) / (S // 2)
        cell = _pick(game.mass.T.ravel(), slices)
        xb, xa = cell // len(game.mass), cell % len(game.mass)
        tried = jnp.floor(noise[1] / max(explore, 1e-6) * depth * K)  # which message is uniform, if any
        message_noise, reply_noise = jnp.split(noise[2:].reshape(depth, -1, S).swapaxes(1, 2), [K], 2)

        own = jnp.zeros((S, K), int)
        log_heard = jnp.zeros((S, len(game.mass)), rules.dtype)
        rows, said, factors = [], [], []
        for r in range(depth):
            rows.append(tree.first(r) + own)
            law = rules[np.arange(K), :, rows[-1]]  # [S, K, XB, M]
            meant = law[jnp.arange(S), :, xb]
            if explore:
                meant = jnp.where(
                    tried[:, None, None] == np.arange(r * K, r * K + K, dtype=tried.dtype)[:, None], 1 / M, meant
                )
            said.append(_pick(meant, message_noise[r]))
            factors.append(jnp.take_along_axis(law, said[-1][..., None, None], -1)[..., 0])
            if r < depth - 1:
                words = user.word_law(game, tree, r, jnp).astype(rules.dtype)
                word = _pick(words[xa][:, None], reply_noise[r])
                log_heard += jnp.log(words.T[word]).sum(1)
                own = (own * M + said[-1]) * tree.replies + word
        return _weigh(game, jnp.concatenate(factors, 1), log_heard, rows, said, M, explore)

    def _unfold(self, schemes):
        tree = self.tree(len(schemes), schemes.shape[-1])
        return tree, schemes.reshape(tree.agents, -1, tree.information_sets, tree.messages)

    def _depth(self, user: AbstractUser) -> int:
        """Rounds that are drawn; the rest is enumerated."""
        return 1 if user.plans else self.rounds

    def at_step(self, step):
        return eqx.tree_at(lambda protocol: protocol.step, self, step)

    def cells(self, game: Game, messages: int) -> int:
        """Of a user who plans her replies where she fits, of one who does not where she does not."""
        planning = self._planning_cells(game, self.samples, self.rounds, messages, self.replies)
        return planning if planning <= MAX_CELLS else self._cells(game, self.samples, self.rounds, messages)

    def _cells(self, game: Game, samples: int, rounds: int, messages: int) -> int:
        rows = game.agent_features * Tree(rounds, self.replies, self.to == "all", 1, messages).information_sets
        leaf = max(game.user_features * game.actions, rounds * game.agent_features * messages)
        return game.agents * max(samples * leaf, rows * messages)

    def _planning_cells(self, game: Game, samples: int, rounds: int, messages: int, replies: int) -> int:
        tree = Tree(rounds, replies, self.to == "all", game.agents, messages)
        rules = game.agents * game.agent_features * tree.information_sets * messages
        leaves = game.agents * game.user_features * tree.nodes(rounds - 1) * game.actions
        return max(max(samples, game.agents) * rules, leaves)

    def check(self, game: Game, messages: int) -> None:
        cells = self._cells(game, self.samples, self.rounds, messages)
        if cells > MAX_CELLS:
            needed = lambda samples, rounds, messages: self._cells(game, samples, rounds, messages)  # noqa: E731
            fits = sizes_that_fit(needed, samples=self.samples, rounds=self.rounds, messages=messages)
            raise ValueError(
                f"samples, rounds, messages: {self.samples} samples of {self.rounds} rounds with {game.agents} agents "
                f"and {messages} messages need {Decimal(8 * cells):.3g} bytes a game; the limit is "
                f"{8 * MAX_CELLS:.3g}. {fits}"
            )

    def check_user(self, game: Game, user: AbstractUser, messages: int) -> None:
        if self.rounds == 1:
            return
        if not user.plans:
            if not isinstance(user, FixedReplies) or user.given is not None:
                raise ValueError(
                    "user: the reply rule of a SampledConversation must have a name, such as "
                    'FixedReplies("questions", ...): an array of all transcripts needs a Conversation'
                )
            return
        cells = self._planning_cells(game, self.samples, self.rounds, messages, self.replies)
        if cells > MAX_CELLS:
            needed = lambda **sizes: self._planning_cells(game, **sizes)  # noqa: E731
            fits = sizes_that_fit(
                needed, samples=self.samples, rounds=self.rounds, messages=messages, replies=self.replies
            )
            raise ValueError(
                f"user: {type(user).__name__} plans her replies, so that all that can follow the first messages is "
                f"enumerated: {self.samples} samples of {self.rounds} rounds with {game.agents} agents, {messages} "
                f"messages and {self.replies} replies (to {self.to}) need {Decimal(8 * cells):.3g} bytes a game; the "
                f"limit is {8 * MAX_CELLS:.3g}. {fits}. A fixed reply rule with a name, such as "
                'FixedReplies("questions", ...), has no such limit'
            )


class _Drawn(NamedTuple):
    """S transcripts in two halves; transcripts s and s + S/2 are a pair. r rounds are drawn.

    weight: W / p; others: the same but for the message of one agent in one round; heard: Q, over p as well, in units
    that make its largest number 1; mass: sum_xa m Q.
    """

    weight: Float[Array, "S XB"]
    others: Float[Array, "S r K XB"]
    heard: Float[Array, "S XA"]
    mass: Float[Array, "S XB"]
    row: Int[Array, "S r K"]
    said: Int[Array, "S r K"]


def _weigh(game: ReducedGame, factors: Float[Array, "S rK XB"], log_heard, rows, said, M, explore: float) -> _Drawn:
    """In logarithms: the weight of a long transcript is a product of many small numbers."""
    S, count, XB = factors.shape
    logs = jnp.log(factors)
    none = jnp.zeros((S, 1, XB), logs.dtype)
    before = jnp.cumsum(jnp.concatenate([none, logs[:, :-1]], 1), 1)
    after = jnp.cumsum(jnp.concatenate([none, logs[:, :0:-1]], 1), 1)[:, ::-1]
    whole, others = logs.sum(1), before + after  # -inf where something is never said: sums, no differences
    law = whole
    if explore:
        uniform = logsumexp(others, axis=1) + math.log(explore / (count * M))
        law = jnp.logaddexp(whole + math.log1p(-explore), uniform)
    heard = jnp.exp(log_heard - log_heard.max(1, keepdims=True))
    mass = heard @ game.mass
    drawn = jax.lax.stop_gradient(logsumexp(law + jnp.log(mass), axis=1))[:, None]
    scaled = lambda x: jnp.where(mass[(slice(None), *(None,) * (x.ndim - 2))] > 0, jnp.exp(x), 0)  # noqa: E731
    return _Drawn(
        scaled(whole - drawn),
        scaled(others - drawn[:, None]).reshape(S, len(rows), -1, XB),
        heard,
        mass,
        jnp.stack(rows, 1),
        jnp.stack(said, 1),
    )


def _what_follows(tree: Tree, rules: Float[Array, "K XB H M"], weight: Float[Array, "XB"], said: Int[Array, "K"]):
    """As `weigh`, from the first messages on: they were `said`, with these weights.

    Of an agent's histories in round r, those that begin with a message are one block; of the nodes, every M^K-th.
    """
    levels = [weight[:, None]]
    K, XB, _, M = rules.shape
    first = jax.nn.one_hot(said, M, dtype=rules.dtype)  # a product: the reverse of a gather is slow on a CPU
    for r in range(1, tree.rounds):
        histories = tree.own_history(r)[latest_slowest(tree, r)[:: tree.joint_messages]]
        blocks = rules[:, :, tree.first(r) : tree.first(r + 1)].reshape(K, XB, M, -1, M)
        laws = (first[:, None, :, None, None] * blocks).sum(2)
        levels.append(speak(jnp.tile(levels[-1], (1, tree.joint_replies)), laws, histories))
    return levels


def _at_once(tree: Tree) -> Tree:
    """A transcript drawn to its end counts as one joint message."""
    return Tree(1, 1, tree.together, tree.agents, tree.messages)


def _pick(law: Float[Array, "*shape n"], uniform: Float[Array, "*others"]) -> Int[Array, "*others"]:
    """The outcome at this point of the distribution function; never one of probability 0."""
    below = jnp.cumsum(jax.lax.stop_gradient(law), -1)
    point = jnp.minimum(uniform * below[..., -1], jnp.nextafter(below[..., -1], jnp.zeros((), law.dtype)))
    return (below <= point[..., None]).sum(-1)


def _partner(x: Array) -> Array:
    """Of each transcript, the other one of its pair."""
    return jnp.roll(x, len(x) // 2, 0)


def _pairs(x: Array) -> Array:
    """Differences within pairs."""
    return x[: len(x) // 2] - x[len(x) // 2 :]
