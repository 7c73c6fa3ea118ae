"""What every protocol provides. A new protocol is one file that subclasses `AbstractProtocol`."""

from __future__ import annotations

import abc
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from emalign_jax.games import units
from emalign_jax.games.game import Array, Game, ReducedGame, reduce_game
from emalign_jax.internal import validation
from emalign_jax.internal.registry import Registry
from emalign_jax.result import display
from emalign_jax.users.base import AbstractUser, Options, check_beliefs

# Limit of the numbers in the largest tensor of one game: 128 MB in float64.
MAX_CELLS = 2**24
# A message of smaller probability is treated as never sent.
NEGLIGIBLE_PROBABILITY = 1e-30


PROTOCOLS: Registry[AbstractProtocol] = Registry("protocol")


class Payoffs(NamedTuple):
    """Expected payoffs, ex ante and in units of utility.

    Attributes:
        user: [...] what the user gets.
        agents: [..., K] each agent's payoff.
        perceived: [...] what the user believes to get: `user`, unless it misreads beliefs (section 11 of
            docs/model.md). `payoffs` gives NaN where a protocol leaves it None and beliefs are misread.

    Example:
        >>> paid = em.payoffs(em.catalog.judge(), em.full_revelation(1, 2, 2), em.Selection(), em.RationalUser())
        >>> float(paid.user), round(float(paid.agents[0]), 3)
        (1.0, 0.3)
    """

    user: Float[Array, "*batch"]
    agents: Float[Array, "*batch K"]
    perceived: Float[Array, "*batch"] | None = None


class AbstractProtocol(eqx.Module):
    """How the user talks to the agents.

    A new protocol is one file with `payoffs`, written in `jax.numpy`: play differentiates it, and `certify` searches
    for deviations (UNREFUTED at best). Methods see one game (no batch axes) and are vmapped outside. Three additions
    are optional and independent of each other: `pseudo_gradient` in closed form, an exact check (`register_check`), and
    `full_revelation_is_heard`, on which all guarantees rest.

    A class may declare:

    * `name`: what commands and configs call the protocol (`--protocol NAME`); the arguments of the class are then set
      with `--set protocol.ARGUMENT=VALUE`. A class without a name of its own can be used from Python only.
    * `expected_utilities`: whether payoffs are expected utilities, so that a constant added to a utility is added to
      the payoff. Constants common to all actions are then left out of the computation, where they would cost
      precision. Not assumed of a class that does not declare it.
    * `exact_payoffs`: False where payoffs are estimates, about which nothing can be certified.
    * `counts_welfare`: whether what the user does depends on `game.mass` and `game.user` alone, and the user's value is
      counted from `game.welfare`, which users who misread beliefs need. What a parent class declares does not
      count; without it such users are refused.
    * `favours_one`: whether ties are broken for one agent at a time, the one that is picked, so that a profile leads to
      one distribution over actions whatever the tie rule.
    * `is_smooth`: whether payoffs are differentiable; otherwise `smoothed` returns a differentiable stand-in.
    * `first_start`: where a search that is checked starts by default, "monopolist" or "random".

    Example:
        >>> class WithFee(em.AbstractProtocol):
        ...     fee: jax.Array = em.parameter("fee", 0.1, "a number >= 0", lambda x: x >= 0)
        ...     def payoffs(self, game, schemes, user):
        ...         paid = em.Pooled().payoffs(game, schemes, user)
        ...         return em.Payoffs(paid.user - self.fee, paid.agents)
        >>> game, honest = em.catalog.judge(), em.full_revelation(1, 2, 2)
        >>> round(float(em.payoffs(game, honest, WithFee(), em.RationalUser()).user), 3)
        0.9

    Source: section 2 of docs/model.md.
    """

    __repr__ = display.written

    name: ClassVar[str]
    expected_utilities: ClassVar[bool] = False
    exact_payoffs: ClassVar[bool] = True
    counts_welfare: ClassVar[Any] = False
    favours_one: ClassVar[Any] = False
    is_smooth: ClassVar[Any] = True
    first_start: ClassVar[str] = "random"

    def __init_subclass__(cls, **options):
        """A gradient in closed form, and `picked`, belong to the payoffs they were written for: a subclass that
        overrides `payoffs` but not them gets the defaults, automatic differentiation and that nothing is known."""
        super().__init_subclass__(**options)
        PROTOCOLS.add(cls)
        gradients, own = ("pseudo_gradient", "own_gradient", "batched_pseudo_gradient", "sums_are_unrolled"), vars(cls)
        overridden = next((n for n, name in enumerate(("payoffs", *gradients)) if name in own), len(gradients))
        for name in (*gradients[overridden:], *(["picked"] if not overridden else [])) if overridden < 2 else ():
            if name not in own:
                setattr(cls, name, vars(AbstractProtocol)[name])

    @abc.abstractmethod
    def payoffs(self, game: ReducedGame, schemes: Float[Array, "K rows M"], user: AbstractUser) -> Payoffs:
        """The user's value and the agents' payoffs in one game.

        Args:
            game: one game.
            schemes: [K, rows, M].
            user: who acts; it does not misread beliefs here, as the game is already as it is perceived.
        """

    def picked(self, game: ReducedGame, schemes: Float[Array, "K rows M"], user: AbstractUser) -> Float[Array, "K"]:
        """The probability with which the user picks each agent; NaN where none is picked because all are heard."""
        return jnp.full(len(schemes), jnp.nan)

    def pseudo_gradient(
        self, game: ReducedGame, schemes: Float[Array, "K rows M"], user: AbstractUser
    ) -> Float[Array, "K rows M"]:
        """The derivative of each agent's payoff in its own scheme; by default `payoffs` is differentiated.

        Raises:
            ValueError: where payoffs are not differentiable.
        """
        self.check_smooth(user)
        agents = jnp.arange(len(schemes))

        def own_payoff(scheme, agent):
            return self.payoffs(game, jnp.where(agents[:, None, None] == agent, scheme, schemes), user).agents[agent]

        return jax.vmap(jax.grad(own_payoff))(schemes, agents)

    def check_smooth(self, user: AbstractUser) -> None:
        """Raise `ValueError` where payoffs with this user have no gradient."""
        jumps = [name for name, module in (("protocol", self), ("user", user)) if not module.is_smooth]
        if jumps:
            stand_ins = {"protocol": "protocol.smoothed(temperature)", "user": "user.smoothed(precision)"}
            raise ValueError(
                f"{', '.join(jumps)}: payoffs jump where the choice of "
                f"{' or of '.join({'protocol': 'agent', 'user': 'action'}[name] for name in jumps)} does; take "
                f"{' and '.join(stand_ins[name] for name in jumps)} for gradients"
            )

    def batched_pseudo_gradient(
        self, games: ReducedGame, schemes: Float[Array, "K rows M N"], user: AbstractUser
    ) -> Float[Array, "K rows M N"]:
        """`pseudo_gradient` of N games at once; to be overridden where that is faster.

        The games are the last axis of every array, of parameters too.
        """
        one = lambda protocol, game, scheme, user: protocol.pseudo_gradient(game, scheme, user)  # noqa: E731
        return jax.vmap(one, in_axes=-1, out_axes=-1)(self, games, schemes, user)

    def sums_are_unrolled(self, game: ReducedGame, messages: int, user: AbstractUser) -> bool:
        """Whether `batched_pseudo_gradient` writes out every sum as additions (`internal.sums`).

        On a CPU all steps of play are then fastest as one kernel. `game` may be a batch.
        """
        return False

    def own_gradient(
        self, game: ReducedGame, schemes: Float[Array, "K rows M"], agent: Float[Array, "K"], user: AbstractUser
    ) -> Float[Array, "rows M"]:
        """The derivative of one agent's payoff in its own scheme.

        Args:
            game, schemes, user: as in `payoffs`.
            agent: [K] 1 at the agent, 0 elsewhere; with indicators the agent can differ over a batch without slow
                gathers.
        """
        return jnp.einsum("i,irm->rm", agent, self.pseudo_gradient(game, schemes, user))

    def smoothed(self, temperature: Any) -> AbstractProtocol:
        """A differentiable protocol to play instead; `self` where the protocol is smooth already."""
        return self

    def in_units(self, unit: Float[Array, "*batch"]) -> AbstractProtocol:
        """The same protocol when utilities are counted in multiples of `unit`.

        To be overridden where a parameter is in units of utility.
        """
        return self

    def at_temperature(self, temperature: Any) -> AbstractProtocol | None:
        """The same protocol with another temperature of the choice of an agent; None where no agent is chosen."""
        return None

    def at_step(self, step: Int[Array, ""]) -> AbstractProtocol:
        """The same protocol in this step of play; to be overridden where every step draws new random numbers."""
        return self

    def axes(self):
        """A tree like `self`: how many axes each parameter has beside those of the batch."""
        return jax.tree.map(lambda _: 0, self)

    def full_revelation_is_heard(self, agents: int) -> bool:
        """Whether any one agent, by revealing x_B, informs the user of it whatever the others do.

        The user then acts as if x_B were known. All guarantees rest on it. It must be declared by the class itself:
        what a parent class says does not count (section 2.5 of docs/model.md).

        Args:
            agents: their number K.
        """
        return False

    def why_unheard(self, agents: int) -> str:
        """The reason, for an error, why `full_revelation_is_heard` does not hold."""
        return (
            f"the guarantee needs an agent that reveals x_B to be heard by the user, which {type(self).__name__} does "
            "not declare (full_revelation_is_heard)"
        )

    @property
    def as_conversation(self) -> Any:
        """This protocol as a `Conversation` of the user with all agents; None where it is none."""
        return None

    @property
    def conversation(self) -> Any:
        """The conversation in which the user replies to agents; None where the user only listens."""
        return None

    @property
    def title(self) -> str:
        """The protocol's name in figures and tables."""
        return validation.described(self)

    @property
    def with_one_agent(self) -> AbstractProtocol:
        """The protocol of a game that has one agent only; `self` where it takes any number."""
        return self

    @property
    def kind(self) -> tuple[type, ...]:
        """The key under which exact checks are registered."""
        return (type(self),)

    def messages(self, game: Game) -> int:
        """The default number of messages M of an agent: enough for a best response (section 1.2 of docs/model.md)."""
        return max(game.agent_features, game.actions)

    def rows(self, game: Game, messages: int) -> int:
        """The number of information sets of an agent; its scheme has a distribution over messages at each."""
        return game.agent_features

    def cells(self, game: Game, messages: int) -> int:
        """Numbers in the largest tensor that one game needs."""
        return game.agents * game.user_features * game.agent_features * messages * game.actions

    def check(self, game: Game, messages: int) -> None:
        """Raise `ValueError` before any work if the size cannot be handled."""
        cells = self.cells(game, messages)
        if cells > MAX_CELLS:
            raise ValueError(
                f"messages: {messages} messages of {game.agents} agents need {8 * cells:.3g} bytes a game; the limit "
                f"is {8 * MAX_CELLS:.3g}: take fewer agents or messages, or Selection, whose cost is "
                "linear in the number of agents"
            )

    def check_user(self, game: Game, user: AbstractUser, messages: int) -> None:
        """Raise `ValueError` before any work if this user cannot be handled."""
        return


validation.describe(("protocol",), AbstractProtocol, "a protocol such as em.Selection() or em.Pooled()")


def declares_welfare(protocol: AbstractProtocol) -> bool:
    """`counts_welfare`, if the protocol's own class declares it; otherwise False."""
    return "counts_welfare" in vars(type(protocol)) and bool(protocol.counts_welfare)


def declares_revelation(protocol: AbstractProtocol, agents: int) -> bool:
    """`full_revelation_is_heard`, if the protocol's own class declares it; otherwise False."""
    return "full_revelation_is_heard" in vars(type(protocol)) and protocol.full_revelation_is_heard(agents)


def reduce_for(games: Game, protocol: AbstractProtocol, user: AbstractUser, xp=jnp) -> ReducedGame:
    """`reduce_game` as this user perceives the games; `user.plain` acts in the result.

    Raises `ValueError` if the user misreads beliefs and the protocol does not declare that it can be used then.
    """
    return reduce_game(games, xp, believed_prior(games, protocol, user, xp))


def believed_prior(games: Game, protocol: AbstractProtocol, user: AbstractUser, xp=jnp) -> Array | None:
    """The joint distribution by which the user reasons; None if it is that of the games. Raises as `reduce_for`."""
    prior = np.asarray(games.prior, np.float64) if xp is np else xp.asarray(games.prior)
    believed = user.believed_prior(prior, xp)
    if believed is prior:
        return None
    if xp is np:
        check_beliefs(user, prior, believed)
    if not declares_welfare(protocol):
        raise ValueError(
            f"protocol: {type(protocol).__name__} does not declare that it counts the user's value from game.welfare "
            f"(counts_welfare = True), which users who misread beliefs need, such as {type(user).__name__}"
        )
    if user.plain.acting.favours and games.agents > 1 and not protocol.favours_one:
        raise ValueError(
            f'user: in {type(protocol).__name__} with ties="agents" what a user who misreads beliefs gets would depend '
            'on whose payoff is computed: take ties="lowest", "highest" or "uniform"'
        )
    return xp.broadcast_to(believed, np.broadcast_shapes(believed.shape, prior.shape))


def user_unit(game: ReducedGame, user: AbstractUser) -> Float[Array, ""]:
    """The unit of what the user gets (`units.unit`), in jax."""
    forgone = jnp.where(game.mass.sum(-1) > 0, jnp.asarray(user.most_forgone) * game.mass.sum(-1), 0)
    return units.unit(game.welfare, units.most_likely(game.user, forgone, user.tie_tolerance, jnp), jnp)


def options_of(user: AbstractUser, weigh, payoff: Float[Array, "*cells A"], mass: Float[Array, "*shape"]) -> Options:
    """The worth of each action after each message, to the party whose totals are `payoff`.

    Args:
        user: says whether pairwise advantages are needed.
        weigh: a function of arrays [..., n] over cells that sums them over x_B with the weights of the messages.
        payoff: totals of the cells, such as `ReducedGame.user` [XA, XB, A].
        mass: the probability of each message.

    Returns:
        `Options`, for `AbstractUser.respond`.

    Example:
        >>> game = em.reduce_game(em.catalog.judge(), np)
        >>> silent = lambda x: x.sum(-2)  # one message, whatever x_B is
        >>> options = em.options_of(em.QuantalUser(1.0), silent, game.user, game.mass.sum(-1))
        >>> [round(float(x), 3) for x in options.value[0]]
        [0.7, 0.3]

    Source: section 3.4 of docs/model.md.
    """
    return Options(posterior_mean(weigh(payoff), mass), pairwise_advantages(user, weigh, payoff))


def pairwise_advantages(user: AbstractUser, weigh, payoff: Float[Array, "*cells A"]) -> Any:
    """By how much each action beats each other one after each message; None if the user does not compare actions."""
    if not user.compares:
        return None
    A = payoff.shape[-1]
    ahead = weigh(units.advantages(payoff, jnp).reshape(*payoff.shape[:-1], A * A))
    return ahead.reshape(*ahead.shape[:-1], A, A)


def posterior_mean(total: Float[Array, "*shape A"], mass: Float[Array, "*shape"]) -> Float[Array, "*shape A"]:
    """total / mass, and 0 for messages that are never sent."""
    sent = mass[..., None] > NEGLIGIBLE_PROBABILITY
    return jnp.where(sent, total / jnp.where(sent, mass[..., None], 1), 0)


def inverse_mass(mass: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """1 / mass, and 0 for messages that are never sent."""
    sent = mass > NEGLIGIBLE_PROBABILITY
    return jnp.where(sent, 1 / jnp.where(sent, mass, 1), 0)
