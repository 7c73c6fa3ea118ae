"""SampledConversation: conversations too large to enumerate, by unbiased estimates with standard errors.

A payoff is U_i = sum_t sum_xa Q[t, xa] f_i(W[t, :], xa): what a transcript t adds to it depends on the weights of t
alone (section 2.4 of docs/model.md). Only t is drawn. Given t, its weights W at every x_B, the posterior, the response
and the payoffs are exact, so each drawn transcript is averaged over x_A and x_B. f_i is homogeneous of degree one in W.
With p the probability of drawing t in any cell, f_i(W / p) is an estimate of U_i within the range of agent i's payoffs.
Its derivative in W, with p held fixed, is an estimate of the gradient, which joins the score function and the pathwise
part.
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
from emalign_jax.internal.arguments import BELOW_ONE, boolean, integer, number, shown
from emalign_jax.internal.validation import setting
from emalign_jax.protocols.base import MAX_CELLS, Payoffs
from emalign_jax.protocols.conversation import (
    AbstractConversation,
    backward_induction,
    joint_message_weights,
    latest_slowest,
    sizes_that_fit,
    slopes_in_weights,
)
from emalign_jax.users.base import AbstractUser
from emalign_jax.users.conversation_tree import Tree


class SampledPayoffs(NamedTuple):
    """Estimated payoffs, in units of utility, with their standard errors.

    Attributes:
        user: [...] what the user gets.
        agents: [..., K] each agent's payoff.
        user_error: [...] the standard error of `user`.
        agents_error: [..., K] the standard errors of `agents`.

    Example:
        >>> game, honest = em.catalog.judge(), em.full_revelation(1, 2, 2)
        >>> paid = em.sampled_payoffs(game, honest, em.SampledConversation(1, samples=64), em.QuantalUser(5.0))
        >>> paid.agents.shape, paid.agents_error.shape
        ((1,), (1,))
    """

    user: Float[Array, "*batch"]
    agents: Float[Array, "*batch K"]
    user_error: Float[Array, "*batch"]
    agents_error: Float[Array, "*batch K"]


class SampledGradient(NamedTuple):
    """Estimated derivatives of each agent's payoff in its own scheme, with their standard errors.

    Errors are estimated from the drawn transcripts: they are 0 at information sets that no drawn transcript reaches.

    Attributes:
        mean: [..., K, rows, M] of which entry i is the estimate of d U_i / d scheme_i.
        error: [..., K, rows, M] its standard errors.

    Example:
        >>> game, honest = em.catalog.judge(), em.full_revelation(1, 2, 2)
        >>> em.sampled_gradient(game, honest, em.SampledConversation(1, samples=64), em.QuantalUser(5.0)).error.shape
        (1, 2, 2)
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
    """A `Conversation` of which some transcripts are drawn; payoffs and gradients are estimates.

    Payoffs, the pseudo-gradient and squared errors are unbiased. Nonlinear functions of them are not: the largest
    slope, the stationarity gap that play reports, a best response to estimates.

    With `FixedReplies` (by name) any number of rounds and agents is possible, as long as the rules fit into memory. A
    user that plans its replies must know exactly what follows: only the first messages are drawn, and everything that
    can follow them is enumerated. In one round there is nothing to plan.

    Args:
        rounds, replies, to: as in `Conversation`.
        samples: number of transcripts, even. They are drawn in pairs, one pair from each slice of the distribution of
            (x_A, x_B); standard errors come from the differences within pairs.
        seed: an integer, or an array of integers over the batch. Random numbers depend on seed and step alone, so
            schemes are compared on common random numbers, and the estimates of a game do not depend on its batch.
            Play draws new numbers in each step.
        explore: share, in [0, 1), of the transcripts drawn for gradients in which one message of one agent is uniform.
            With 0, gradients miss the slopes of messages of probability 0.
        baseline: whether to reduce the variance of gradients: the mean payoff given x_B is subtracted from the payoff
            after a message, which does not change the expectation.
        step: the step of play, see `at_step`.

    Raises:
        ValueError: names the field and the rule.

    Example:
        >>> game, protocol = em.catalog.what_to_ask(), em.SampledConversation(2, replies=3, samples=64)
        >>> user = em.FixedReplies("truthful", em.RationalUser())
        >>> silent = em.no_information(1, protocol.rows(game, 2), 2)
        >>> float(em.payoffs(game, silent, protocol, user).user)
        0.5

    Source: section 2.4 of docs/model.md.
    """

    samples: int = setting("samples", 256, integer, 2)
    seed: Int[Array, "*batch"] = eqx.field(converter=lambda value: _integers("seed", value), default=0)
    explore: float = setting("explore", 0.25, number, *BELOW_ONE)
    baseline: bool = setting("baseline", True, boolean)
    step: Int[Array, "*batch"] = eqx.field(converter=lambda value: _integers("step", value), default=0)

    exact_payoffs = False
    counts_welfare = True

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
        """As `payoffs`, with standard errors."""
        tree, rules = self._unfold(schemes)
        drawn = self._draw(game, rules, tree, user, explore=0.0)
        if self._drawn_rounds(user) == self.rounds:
            found = backward_induction(_one_round(tree), [drawn.weight.T], game, game.agents, user)
            value, own = (drawn.reply_weights.T * found.value).sum(0), (drawn.reply_weights.T * found.own).sum(1).T
        else:

            def one(first):
                found = backward_induction(tree, _later_weights(tree, rules, *first), game, game.agents, user)
                return found.value.sum(), found.own.sum((1, 2))

            value, own = jax.lax.map(one, (drawn.weight, drawn.said[:, 0]))
        error = lambda x: jnp.sqrt((_pair_differences(x) ** 2).sum(0)) / self.samples  # noqa: E731
        return SampledPayoffs(value.mean(), own.mean(0), error(value), error(own))

    def sampled_gradient(
        self, game: ReducedGame, schemes: Float[Array, "K rows M"], user: AbstractUser
    ) -> SampledGradient:
        """As `pseudo_gradient`, with standard errors."""
        self.check_smooth(user)
        if user.acting.logit_precision is None:
            raise ValueError(f"user: sampled gradients need a QuantalUser, got {type(user.acting).__name__}")
        tree, rules = self._unfold(schemes)
        drawn = self._draw(game, rules, tree, user, self.explore)
        slope, later = self._slopes(game, rules, tree, user, drawn)
        total, square = self._gradient_in_rules(rules, tree, drawn, slope)
        if later is not None:
            total, square = total + later.sum(0), square + (_pair_differences(later) ** 2).sum(0)
        error = jnp.sqrt(jnp.maximum(square, 0))
        return SampledGradient(*((x / self.samples).reshape(schemes.shape) for x in (total, error)))

    def _slopes(self, game, rules, tree, user, drawn: _Drawn):
        """d payoff_i / d weight of each drawn transcript [S, K, XB], and d payoff_i / d rule_i in the rounds that are
        enumerated [S, K, XB, H, M], None if there are none."""
        precision = user.acting.logit_precision
        if self._drawn_rounds(user) == self.rounds:
            (slope,) = slopes_in_weights(
                _one_round(tree), [drawn.weight.T], game, game.agents, precision, user, drawn.reply_weights.T
            )
            return slope.transpose(2, 0, 1), None

        # One after the other: vmapped in float32, jax 0.10.2 on a CPU computes wrong numbers or crashes.
        def one(first):
            weight, said = first
            levels, pullback = jax.vjp(lambda w, x: _later_weights(tree, x, w, said), weight, rules)
            slope, later = jax.vmap(pullback)(slopes_in_weights(tree, levels, game, game.agents, precision, user))
            return slope, jnp.einsum("iixhm->ixhm", later)

        return jax.lax.map(one, (drawn.weight, drawn.said[:, 0]))

    def _gradient_in_rules(self, rules, tree, drawn: _Drawn, slope):
        """The sum over transcripts of d payoff_i / d rule_i in the rounds that are drawn, and of squared differences
        within pairs.

        A transcript contributes to one entry of the rule in each round, that of the message sent: its slope times its
        weight without the factor of this message. The baseline adds a term that is 0 in expectation; each half of the
        samples takes its baseline from the other half, of which it is independent.
        """
        level = jnp.zeros_like(slope)
        if self.baseline:
            halves = lambda x: x.reshape(2, -1, *x.shape[1:]).sum(1)  # noqa: E731
            payoff, mass = halves(slope * drawn.weight[:, None]), halves(drawn.mass * drawn.weight)[:, None]
            level = jnp.where(mass > 0, payoff / jnp.where(mass > 0, mass, 1), 0)[::-1]
            level = jnp.repeat(level, self.samples // 2, 0) * drawn.mass[:, None]
        sent_message = jax.nn.one_hot(drawn.said, tree.messages, dtype=slope.dtype)[..., None, :]  # [S, r, K, 1, M]
        values = sent_message * ((slope - level)[:, None] * drawn.others)[..., None]
        values += (level * drawn.weight[:, None])[:, None, ..., None]
        partner = jnp.where((drawn.row == _partner(drawn.row))[..., None, None], _partner(values), 0)
        where = np.arange(tree.agents), slice(None), drawn.row
        return tuple(jnp.zeros_like(rules).at[where].add(x) for x in (values, values * (values - partner)))

    def _draw(self, game: ReducedGame, rules, tree: Tree, user: Any, explore: float) -> _Drawn:
        S, K, M, depth = self.samples, tree.agents, tree.messages, self._drawn_rounds(user)
        channels = 1 if tree.reply_to_all else K
        key = jax.random.fold_in(jax.random.key(self.seed), self.step)
        noise = jax.random.uniform(key, (2 + depth * (K + channels), S), rules.dtype)
        slices = (jnp.asarray(np.arange(S) % (S // 2), noise.dtype) + noise[0]) / (S // 2)
        cell = _draw_index(game.mass.T.ravel(), slices)  # stratified: a pair of transcripts from each slice
        xb, xa = cell // len(game.mass), cell % len(game.mass)
        uniform = jnp.floor(noise[1] / max(explore, 1e-6) * depth * K)  # number of the message that is uniform, if any
        message_noise, reply_noise = jnp.split(noise[2:].reshape(depth, -1, S).swapaxes(1, 2), [K], 2)

        own = jnp.zeros((S, K), int)
        log_replies = jnp.zeros((S, len(game.mass)), rules.dtype)
        rows, said, factors = [], [], []
        for r in range(depth):
            rows.append(tree.first(r) + own)
            rule = rules[np.arange(K), :, rows[-1]]  # [S, K, XB, M]
            drawn_from = rule[jnp.arange(S), :, xb]
            if explore:
                numbers = np.arange(r * K, r * K + K, dtype=uniform.dtype)[:, None]
                drawn_from = jnp.where(uniform[:, None, None] == numbers, 1 / M, drawn_from)
            said.append(_draw_index(drawn_from, message_noise[r]))
            factors.append(jnp.take_along_axis(rule, said[-1][..., None, None], -1)[..., 0])
            if r < depth - 1:
                words = user.word_distribution(game, tree, r, jnp).astype(rules.dtype)
                word = _draw_index(words[xa][:, None], reply_noise[r])
                log_replies += jnp.log(words.T[word]).sum(1)
                own = (own * M + said[-1]) * tree.replies + word
        return _drawn_weights(game, jnp.concatenate(factors, 1), log_replies, rows, said, M, explore)

    def _unfold(self, schemes):
        tree = self.tree(len(schemes), schemes.shape[-1])
        return tree, schemes.reshape(tree.agents, -1, tree.information_sets, tree.messages)

    def _drawn_rounds(self, user: AbstractUser) -> int:
        """The number of rounds that are drawn; the others are enumerated."""
        return 1 if user.plans else self.rounds

    def at_step(self, step):
        return eqx.tree_at(lambda protocol: protocol.step, self, step)

    def cells(self, game: Game, messages: int) -> int:
        """Numbers for a user that plans its replies if they are within the limit, else for one that does not."""
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
            if not user.has_word_distribution:
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
                f"user: {type(user).__name__} plans its replies, so that everything that can follow the first messages "
                f"is enumerated: {self.samples} samples of {self.rounds} rounds with {game.agents} agents, {messages} "
                f"messages and {self.replies} replies (to {self.to}) need {Decimal(8 * cells):.3g} bytes a game; the "
                f"limit is {8 * MAX_CELLS:.3g}. {fits}. A fixed reply rule with a name, such as "
                'FixedReplies("questions", ...), has no such limit'
            )


class _Drawn(NamedTuple):
    """S transcripts in two halves; transcripts s and s + S/2 are a pair. r rounds are drawn.

    weight:        W / p, with p the probability of drawing the transcript.
    others:        W / p without the factor of one agent's message in one round.
    reply_weights: Q, scaled so that its largest number is 1; p is scaled with it.
    mass:          sum_xa m Q.
    row:           each agent's information set in each round.
    said:          each agent's message in each round.
    """

    weight: Float[Array, "S XB"]
    others: Float[Array, "S r K XB"]
    reply_weights: Float[Array, "S XA"]
    mass: Float[Array, "S XB"]
    row: Int[Array, "S r K"]
    said: Int[Array, "S r K"]


def _drawn_weights(
    game: ReducedGame, factors: Float[Array, "S rK XB"], log_replies, rows, said, M, explore: float
) -> _Drawn:
    """The weights of drawn transcripts, in logarithms: that of a long one is a product of many small numbers."""
    S, count, XB = factors.shape
    logs = jnp.log(factors)
    none = jnp.zeros((S, 1, XB), logs.dtype)
    before = jnp.cumsum(jnp.concatenate([none, logs[:, :-1]], 1), 1)
    after = jnp.cumsum(jnp.concatenate([none, logs[:, :0:-1]], 1), 1)[:, ::-1]
    # `others` is a sum and no difference, because logs are -inf at messages of probability 0.
    whole, others = logs.sum(1), before + after
    drawing = whole
    if explore:
        uniform = logsumexp(others, axis=1) + math.log(explore / (count * M))
        drawing = jnp.logaddexp(whole + math.log1p(-explore), uniform)
    reply_weights = jnp.exp(log_replies - log_replies.max(1, keepdims=True))
    mass = reply_weights @ game.mass
    drawn = jax.lax.stop_gradient(logsumexp(drawing + jnp.log(mass), axis=1))[:, None]
    scaled = lambda x: jnp.where(mass[(slice(None), *(None,) * (x.ndim - 2))] > 0, jnp.exp(x), 0)  # noqa: E731
    return _Drawn(
        scaled(whole - drawn),
        scaled(others - drawn[:, None]).reshape(S, len(rows), -1, XB),
        reply_weights,
        mass,
        jnp.stack(rows, 1),
        jnp.stack(said, 1),
    )


def _later_weights(tree: Tree, rules: Float[Array, "K XB H M"], weight: Float[Array, "XB"], said: Int[Array, "K"]):
    """`transcript_weights` of the transcripts that begin with the joint message `said`, which has the given weight.

    The own histories of an agent in round r that begin with one message are one block; of the joint histories, those
    that begin with one joint message are every M^K-th.
    """
    levels = [weight[:, None]]
    K, XB, _, M = rules.shape
    first = jax.nn.one_hot(said, M, dtype=rules.dtype)  # no gather: its derivative is slow on a CPU
    for r in range(1, tree.rounds):
        histories = tree.own_history(r)[latest_slowest(tree, r)[:: tree.joint_messages]]
        blocks = rules[:, :, tree.first(r) : tree.first(r + 1)].reshape(K, XB, M, -1, M)
        later = (first[:, None, :, None, None] * blocks).sum(2)
        levels.append(joint_message_weights(jnp.tile(levels[-1], (1, tree.joint_replies)), later, histories))
    return levels


def _one_round(tree: Tree) -> Tree:
    """The tree in which a whole transcript counts as one joint message."""
    return Tree(1, 1, tree.reply_to_all, tree.agents, tree.messages)


def _draw_index(distribution: Float[Array, "*shape n"], uniform: Float[Array, "*others"]) -> Int[Array, "*others"]:
    """The index at which the cumulative distribution passes `uniform`; never one of probability 0."""
    below = jnp.cumsum(jax.lax.stop_gradient(distribution), -1)
    last = jnp.nextafter(below[..., -1], jnp.zeros((), distribution.dtype))
    point = jnp.minimum(uniform * below[..., -1], last)
    return (below <= point[..., None]).sum(-1)


def _partner(x: Array) -> Array:
    """The array at the other transcript of each pair."""
    return jnp.roll(x, len(x) // 2, 0)


def _pair_differences(x: Array) -> Array:
    """The differences within pairs of transcripts."""
    return x[: len(x) // 2] - x[len(x) // 2 :]
