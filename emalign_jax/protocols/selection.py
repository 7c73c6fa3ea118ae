"""Selection: the user picks the agent whose scheme is worth most, and hears no other (section 2.2 of docs/model.md).

V_j is the user's value under agent j's scheme, O[i, j] is agent i's payoff under it. The user picks the largest V_j
(the lowest index among equals), or agent j with probability softmax(V / temperature)_j.
"""

from __future__ import annotations

import copy
import functools
import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float

from emalign_jax.games.game import Array, Game, ReducedGame
from emalign_jax.games.units import TIE_ROUNDING_UNITS, VALUE_TIE
from emalign_jax.internal.arguments import shown
from emalign_jax.internal.sums import UNROLLED, add_up, dot, softmax
from emalign_jax.internal.validation import float_parameter
from emalign_jax.protocols.base import (
    MAX_CELLS,
    AbstractProtocol,
    Payoffs,
    declares_revelation,
    inverse_mass,
    options_of,
    user_unit,
)
from emalign_jax.protocols.conversation import Conversation
from emalign_jax.users.base import AbstractUser
from emalign_jax.users.quantal import logit


class Selection(AbstractProtocol):
    """The user picks one agent by the value of its scheme, and hears no other.

    Args:
        temperature: >= 0, in units of utility; 0 picks the best agent. A scalar or an array over the batch.
        then: the `Conversation` of the user with the agent that is picked; None means one message. Exact checks count
            deviations with any number of messages, so a search needs M >= max(XB, A), the default.

    Raises:
        ValueError: names the field and the rule.

    Example:
        >>> game = em.catalog.judge(prosecutors=2)
        >>> schemes = np.stack([em.full_revelation(1, 2, 2)[0], em.no_information(1, 2, 2)[0]])
        >>> float(em.certify(game, schemes, em.Selection(), em.RationalUser()).user)  # the first agent is picked
        1.0

    Source: section 2.2 of docs/model.md.
    """

    name = "selection"
    expected_utilities = True
    counts_welfare = True
    favours_one = True
    first_start = "monopolist"

    temperature: Float[Array, "*batch"]
    then: Conversation | None
    sharp: bool = eqx.field(static=True)

    def __init__(self, temperature: Any = 0.0, then: Conversation | None = None):
        traced = isinstance(temperature, Tracer)
        if not traced:
            temperature = float_parameter(
                "temperature", temperature, "a finite number >= 0", lambda x: (x >= 0) & np.isfinite(x)
            )
            if bool((temperature == 0).any()) and not bool((temperature == 0).all()):
                raise ValueError("temperature: expected all 0 or all > 0 over the batch, got a mixture")
        if not (then is None or getattr(then, "as_conversation", None) is then):
            raise ValueError(f"then: expected a Conversation or None, got {shown(then)}")
        self.temperature = temperature
        self.then = then
        self.sharp = not traced and bool((temperature == 0).all())

    @property
    def title(self):
        rounds = "" if self.then is None else f", {self.then.rounds} rounds with the selected agent"
        return f"{type(self).__name__}{rounds}"

    def payoffs(self, game: ReducedGame, schemes: Float[Array, "K rows M"], user: AbstractUser) -> Payoffs:
        found = self._evaluate(game, schemes, user)
        chosen = self.choose(found.values, user_unit(game, user))
        return Payoffs((chosen * found.values).sum(), (chosen * found.table).sum(-1), (chosen * found.perceived).sum())

    def picked(self, game, schemes, user):
        return self.choose(self._evaluate(game, schemes, user).values, user_unit(game, user))

    def _evaluate(self, game, schemes, user):
        """The evaluation of each agent alone (`evaluate_agents`)."""
        if self.then is None:
            return evaluate_agents(game, schemes, user)
        return self._evaluate_conversations(self.then, game, schemes, user)

    def choose(self, values: Float[Array, "K"], scale: Float[Array, ""]) -> Float[Array, "K"]:
        """The distribution over agents, given the user's value of each.

        Args:
            values: [K].
            scale: the unit of the user's utility.
        """
        if not self.sharp:
            return logit(values, self.inverse_temperature(values.dtype))
        tolerance = max(VALUE_TIE, TIE_ROUNDING_UNITS * float(jnp.finfo(values.dtype).eps))
        best = values >= values.max() - tolerance * scale
        return jax.nn.one_hot(jnp.argmax(best), values.shape[-1], dtype=values.dtype)

    def inverse_temperature(self, dtype) -> Float[jax.Array, "*batch"]:
        """1 / temperature, with temperatures below the smallest number of `dtype` rounded up to it."""
        return 1 / jnp.maximum(jnp.asarray(self.temperature, dtype), jnp.finfo(dtype).tiny)

    def pseudo_gradient(
        self, game: ReducedGame, schemes: Float[Array, "K rows M"], user: AbstractUser
    ) -> Float[Array, "K rows M"]:
        if self.sharp or user.acting.logit_precision is None:
            return super().pseudo_gradient(game, schemes, user)
        if (then := self.then) is not None:
            goal = self._goals(game, self._evaluate_conversations(then, game, schemes, user))
            return jax.vmap(
                lambda own, scheme: then.pseudo_gradient(game._replace(agents=own[None]), scheme[None], user)[0]
            )(goal, schemes)
        one, *batch_of_one = jax.tree.map(lambda x: jnp.asarray(x)[..., None], (self, game, schemes, user))
        return one.batched_pseudo_gradient(*batch_of_one)[..., 0]

    def batched_pseudo_gradient(
        self, games: ReducedGame, schemes: Float[Array, "K rows M N"], user: AbstractUser
    ) -> Float[Array, "K rows M N"]:
        if self.then is not None or self.sharp or user.logit_precision is None:
            return super().batched_pseudo_gradient(games, schemes, user)
        mass, utility, goals, welfare = games  # [XA, XB, N], [XA, XB, A, N], [K, XA, XB, A, N], [XA, XB, A, N]
        sent = schemes[:, None]  # [K, 1, XB, M, N]
        per_mass = inverse_mass(dot(sent, mass[None, :, :, None], 2))[:, :, :, None]  # [K, XA, M, 1, N]
        means = dot(sent[:, :, :, :, None], utility[None, :, :, None], 2) * per_mass  # E [K, XA, M, A, N]
        response = softmax(user.logit_precision * means, 3)
        actions = dot(response[:, :, None], sent[:, :, :, :, None], 3)  # P(a | x_A, x_B) under j [K, XA, XB, A, N]
        values = functools.reduce(add_up, (1, 1), dot(actions, welfare[None], 3))
        table = functools.reduce(add_up, (2, 2), dot(goals[:, None], actions[None], 4))
        chosen, value_weight = jax.vmap(type(self)._choice, in_axes=-1, out_axes=-1)(self, values, table)
        goal = chosen[:, None, None, None] * goals + value_weight[:, None, None, None] * welfare
        goal_means = dot(sent[:, :, :, :, None], goal[:, :, :, None], 2) * per_mass
        C = user.logit_precision * response * (goal_means - dot(response, goal_means, 3)[:, :, :, None])
        by_mass = dot(C, means, 3)  # [K, XA, M, N]
        by_type = [
            dot(response[:, x, None], goal[:, x, :, None], 3)
            + dot(C[:, x, None], utility[x, :, None][None], 3)
            - by_mass[:, x, None] * mass[x, :, None]
            for x in range(len(mass))
        ]
        return functools.reduce(jnp.add, by_type)

    def sums_are_unrolled(self, game, messages, user):
        K, XA, XB, A = game.agents.shape[-4:]
        return self.then is None and user.logit_precision is not None and max(K, XA, XB, A, messages) <= UNROLLED

    @property
    def is_smooth(self):
        """Whether payoffs are differentiable: at a temperature > 0."""
        return not self.sharp

    def _goals(self, game, found: Evaluated):
        """Utilities [K, XA, XB, A] under which an agent alone with the user has the gradient of this protocol:
        s_i U_i + s_i (O_ii - U_i) / temperature * u (section 2.2 of docs/model.md)."""
        chosen, value_weight = self._choice(found.values, found.table)
        return chosen[:, None, None, None] * game.agents + value_weight[:, None, None, None] * game.welfare

    def _choice(self, values, table):
        """The distribution s [K] over agents at a temperature > 0, and d U_i / d V_i [K] through it."""
        chosen = self.choose(values, jnp.ones((), values.dtype))
        return chosen, chosen * (jnp.diagonal(table) - (chosen * table).sum(-1)) / self.temperature

    @staticmethod
    def _evaluate_conversations(then, game, schemes, user):
        """`evaluate_agents` where a conversation with agent j alone follows."""
        actions = jax.vmap(lambda scheme, own: then.action_distribution(game, scheme, own, user))(schemes, game.agents)
        return _evaluated(game, actions)

    def full_revelation_is_heard(self, agents):
        # An agent that reveals x_B is picked, or another one that is worth as much.
        return self.sharp and (self.then is None or declares_revelation(self.then, 1))

    def why_unheard(self, agents):
        if self.sharp:
            return super().why_unheard(agents)
        return (
            "the guarantee needs an agent that reveals x_B to be picked, so temperature 0; with a temperature the "
            "guarantee of a given profile is certify(...).guarantee"
        )

    def smoothed(self, temperature) -> Selection:
        return self.at_temperature(temperature) if self.sharp else self

    def in_units(self, unit):
        return self if self.sharp else self.at_temperature(self.temperature / unit)

    def at_temperature(self, temperature) -> Selection:
        checked, same = Selection(temperature), copy.copy(self)  # A subclass stays what it is.
        object.__setattr__(same, "temperature", checked.temperature)
        object.__setattr__(same, "sharp", checked.sharp)
        return same

    @property
    def conversation(self):
        return self.then

    @property
    def kind(self):
        return (type(self),) if self.then is None else (type(self), type(self.then))

    def rows(self, game: Game, messages: int) -> int:
        return game.agent_features if self.then is None else self.then.rows(game, messages)

    def cells(self, game: Game, messages: int) -> int:
        if self.then is None:
            return super().cells(game, messages)
        return game.agents * self.then.tree(1, messages).cells(game.user_features, game.actions)

    def check(self, game: Game, messages: int) -> None:
        check_agents(game)
        if self.then is not None:  # the conversation is with one agent, so its tree does not grow with the others
            self.then.check(game.of_one_agent, messages)
            cells = self.cells(game, messages)
            if cells > MAX_CELLS:
                raise ValueError(
                    f"agents: {game.agents} conversations of {self.then.rounds} rounds with {messages} messages need "
                    f"{8 * cells:.3g} bytes a game; the limit is {8 * MAX_CELLS:.3g}. The largest that fits, all else "
                    f"as it is: agents = {MAX_CELLS * game.agents // cells}"
                )
        super().check(game, messages)

    def messages(self, game: Game) -> int:
        if self.then is not None:  # to reveal x_B, or to recommend any action once the user has reported x_A
            return max(game.agent_features, game.actions)
        # The LP over beliefs has XB rows, and one for the value of the best rival. A rational user needs at most one
        # message for each recommendation.
        return max(game.agent_features, min(game.agent_features + 1, game.actions**game.user_features))


def check_agents(game: Game) -> None:
    """Raise `ValueError` where the table O [K, K] of payoffs would be too large."""
    if game.agents**2 > MAX_CELLS:
        raise ValueError(f"agents: expected at most {math.isqrt(MAX_CELLS)} to select from, got {game.agents}")


class Evaluated(NamedTuple):
    """Each agent j alone: the user's value V [K], the table O [K, K] of agent i's payoff under j (ties for j), and what
    the user believes to get [K]."""

    values: Float[Array, "K"]
    table: Float[Array, "K K"]
    perceived: Float[Array, "K"]


def evaluate_agents(game: ReducedGame, schemes: Float[Array, "K XB M"], user: AbstractUser) -> Evaluated:
    """Each agent alone, with one message."""
    mass = jnp.einsum("jbs,xb->jxs", schemes, game.mass)
    options = options_of(user, lambda x: jnp.einsum("jbs,xbn->jxsn", schemes, x), game.user, mass)
    own = options_of(user, lambda x: jnp.einsum("jbs,jxbn->jxsn", schemes, x), game.agents, mass)
    response = user.respond(options, own)
    return _evaluated(game, jnp.einsum("jxsa,jbs->jxba", response, schemes))


def _evaluated(game: ReducedGame, actions: Float[Array, "K XA XB A"]) -> Evaluated:
    """From P(a | x_A, x_B) under each agent j."""
    values, perceived = (jnp.einsum("jxba,xba->j", actions, x) for x in (game.welfare, game.user))
    return Evaluated(values, jnp.einsum("ixba,jxba->ij", game.agents, actions), perceived)
