"""What every protocol provides. A new protocol is one file that subclasses `AbstractProtocol`."""

from __future__ import annotations

import abc
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from emalign_jax.games import units
from emalign_jax.games.game import Array, Game, ReducedGame
from emalign_jax.internal import validation
from emalign_jax.internal.registry import Registry
from emalign_jax.users.base import AbstractUser, Options

MAX_CELLS = 2**24  # of one game's largest tensor: 128 MB in float64
TINY = 1e-30  # a message of smaller probability is treated as never sent


PROTOCOLS: Registry[AbstractProtocol] = Registry("protocol")


class Payoffs(NamedTuple):
    """user: [...] the user's value; agents: [..., K] each agent's payoff (ex ante, utility units)."""

    user: Float[Array, "*batch"]
    agents: Float[Array, "*batch K"]


class AbstractProtocol(eqx.Module):
    """How the user talks to the agents. Methods see one game (no batch axes) and are vmapped outside.

    A new protocol is one file with `payoffs`, written in `jax.numpy`: play differentiates it, and `certify` searches
    deviations (UNREFUTED at best). Further and separately: `pseudo_gradient` in closed form, an exact check
    (`register_check`), and `full_revelation_is_heard`, on which all guarantees rest.

    name: what commands and configs call it (`--protocol NAME`, `kind = "NAME"`), the arguments of the class with it
        (`--set protocol.ARGUMENT=VALUE`). A class without a name of its own is for Python alone.
    offsets_pass: whether payoffs are expected utilities, so that a constant added to a utility is added to the payoff.
        Payoffs are then computed without what is common to all actions, which costs precision. Where this is not
        declared it is not assumed.
    """

    name: ClassVar[str]
    offsets_pass: ClassVar[bool] = False
    exact_payoffs: ClassVar[bool] = True  # False where payoffs are estimates, of which nothing can be certified
    is_smooth: ClassVar[Any] = True  # whether payoffs are differentiable; else `smoothed` gives a stand-in

    def __init_subclass__(cls, **options):
        """A gradient in closed form is that of the payoffs it was written with: a subclass that overrides those, and
        not the gradient, has it differentiated automatically."""
        super().__init_subclass__(**options)
        PROTOCOLS.add(cls)
        of_payoffs, own = ("pseudo_gradient", "own_slope", "slopes", "written_out"), vars(cls)
        written = next((n for n, name in enumerate(("payoffs", *of_payoffs)) if name in own), len(of_payoffs))
        for name in of_payoffs[written:] if written < 2 else ():
            if name not in own:
                setattr(cls, name, vars(AbstractProtocol)[name])

    @abc.abstractmethod
    def payoffs(self, game: ReducedGame, schemes: Float[Array, "K rows M"], user: AbstractUser) -> Payoffs:
        """What everybody gets under `schemes`."""

    def pseudo_gradient(
        self, game: ReducedGame, schemes: Float[Array, "K rows M"], user: AbstractUser
    ) -> Float[Array, "K rows M"]:
        """d U_i / d scheme_i for every agent i, each agent's own derivative of its own payoff. By default `payoffs` is
        differentiated. Raises `ValueError` where payoffs jump."""
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

    def slopes(
        self, games: ReducedGame, schemes: Float[Array, "K rows M N"], user: AbstractUser
    ) -> Float[Array, "K rows M N"]:
        """`pseudo_gradient` of N games at once, with the games as *last* axis of everything, parameters too; to be
        overridden where that is faster."""
        one = lambda protocol, game, scheme, user: protocol.pseudo_gradient(game, scheme, user)  # noqa: E731
        return jax.vmap(one, in_axes=-1, out_axes=-1)(self, games, schemes, user)

    def written_out(self, game: ReducedGame, messages: int, user: AbstractUser) -> bool:
        """Whether `slopes` has every sum written out (`dot`, `add_up`), so that a CPU is fastest with all steps of play
        as one kernel; game [K, XA, XB, A] may be a batch."""
        return False

    def own_slope(
        self, game: ReducedGame, schemes: Float[Array, "K rows M"], agent: Float[Array, "K"], user: AbstractUser
    ) -> Float[Array, "rows M"]:
        """d U_i / d scheme_i of one agent i; agent [K]: 1 at i, else 0, so that agents can differ over a batch without
        gathers, which are slow."""
        return jnp.einsum("i,irm->rm", agent, self.pseudo_gradient(game, schemes, user))

    def smoothed(self, temperature: Any) -> AbstractProtocol:
        """A differentiable stand-in; `self` where the protocol is smooth already."""
        return self

    def in_units(self, unit: Float[Array, "*batch"]) -> AbstractProtocol:
        """The same protocol when utilities are counted in multiples of `unit`; to be overridden where a
        parameter is in utility units."""
        return self

    def at_step(self, step: Int[Array, ""]) -> AbstractProtocol:
        """The same protocol in this step of play; to be overridden where random numbers are drawn anew each step."""
        return self

    def axes(self):
        """How many axes of its own each parameter has, behind those of the batch."""
        return jax.tree.map(lambda _: 0, self)

    def full_revelation_is_heard(self, agents: int) -> bool:
        """Whether any one of so many agents, by revealing x_B, informs the user of it whatever the others do, so that
        the user then acts as if x_B was known. All guarantees rest on that. It is believed of a class that says so
        itself: a subclass, which may be heard otherwise, must say it again."""
        return False

    @property
    def conversation(self) -> Any:
        """The conversation in which she replies to agents; None where she only listens."""
        return None

    @property
    def title(self) -> str:
        """What figures and tables call it."""
        return validation.described(self)

    @property
    def kind(self) -> tuple[type, ...]:
        """By which the exact checks know it."""
        return (type(self),)

    def messages(self, game: Game) -> int:
        """Messages M an agent has if nothing else is said: enough that nothing it may want is out of reach."""
        return max(game.agent_features, game.actions)

    def rows(self, game: Game, messages: int) -> int:
        """Information sets of an agent, at each of which his scheme holds a law over messages."""
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
                "linear in the agents"
            )

    def check_user(self, game: Game, user: AbstractUser, messages: int) -> None:
        """Raise `ValueError` before any work if this user cannot be handled."""
        return


validation.describe(("protocol",), AbstractProtocol, "a protocol such as em.Selection() or em.Pooled()")


def declares_revelation(protocol: AbstractProtocol, agents: int) -> bool:
    """`full_revelation_is_heard`, as far as the protocol's own class says so."""
    return "full_revelation_is_heard" in vars(type(protocol)) and protocol.full_revelation_is_heard(agents)


def user_unit(game: ReducedGame, user: AbstractUser) -> Float[Array, ""]:
    """How much the user's value can vary with what the user is told (`units.unit`)."""
    forgone = jnp.where(game.mass.sum(-1) > 0, jnp.asarray(user.most_forgone) * game.mass.sum(-1), 0)
    return units.unit(game.user, units.most_likely(game.user, forgone, user.tie_tolerance, jnp), jnp)


def options_of(user: AbstractUser, weigh, payoff: Float[Array, "*cells A"], mass: Float[Array, "*shape"]) -> Options:
    """What each action is worth after each message, to whom gets `payoff`.

    weigh: the sum over x_B of payoffs [..., n], with the weights of the messages; mass: of the messages.
    """
    return Options(posterior_mean(weigh(payoff), mass), compared(user, weigh, payoff))


def compared(user: AbstractUser, weigh, payoff: Float[Array, "*cells A"]) -> Any:
    """By how much each action beats each other one after each message, if the user asks for it."""
    if not user.compares:
        return None
    A = payoff.shape[-1]
    ahead = weigh(units.advantages(payoff, jnp).reshape(*payoff.shape[:-1], A * A))
    return ahead.reshape(*ahead.shape[:-1], A, A)


def posterior_mean(total: Float[Array, "*shape A"], mass: Float[Array, "*shape"]) -> Float[Array, "*shape A"]:
    """total / mass, and 0 for messages that are never sent."""
    sent = mass[..., None] > TINY
    return jnp.where(sent, total / jnp.where(sent, mass[..., None], 1), 0)


def inverse(mass: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """1 / mass, and 0 for messages that are never sent."""
    sent = mass > TINY
    return jnp.where(sent, 1 / jnp.where(sent, mass, 1), 0)
