"""The specification of a tuning run: one value a key, and a section for each mechanism that is tuned."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import pydantic
from pydantic import AfterValidator, BeforeValidator, Field

from emalign_jax.equilibrium.solver import check_sizes
from emalign_jax.experiments import specification as spec
from emalign_jax.experiments import toml
from emalign_jax.experiments.specification import BUILT_IN_PROTOCOLS, Flat, Number, Section, whole
from emalign_jax.games import families
from emalign_jax.games.families import FAMILIES, any_game, random_games
from emalign_jax.games.game import Game
from emalign_jax.internal import memory
from emalign_jax.mechanisms import MECHANISMS, AbstractMechanism, Several
from emalign_jax.play import SmoothPlay, differentiable
from emalign_jax.protocols.base import PROTOCOLS, AbstractProtocol
from emalign_jax.tuning.loop import Plan
from emalign_jax.tuning.objectives import OVER_GAMES, OVER_STARTS, Objective
from emalign_jax.users.base import USERS, AbstractUser

FOLDER = "tuning"
COPIES = 4  # of an equilibrium, that playing it holds
POINT, HISTORY = 2000, 800  # bytes of a point, and of what a step leaves
DEFAULT_TEMPERATURE, DEFAULT_PRECISION = 0.3, 5.0
HELD_OUT = 2**30  # folded into the key of the games that are not tuned on


class Games(spec.RandomGames):
    """Random games to tune on, and others to judge by."""

    family: Annotated[str, spec.named(FAMILIES)] = Field(default="shared_bias", description="family of random games")
    count: int = whole(64, "games that are tuned on")
    held_out: int = whole(64, "games of the evaluation", 2)
    agents: int = whole(3, "number of agents K")
    states: int = whole(3, "outcomes Y")
    actions: int = whole(3, "actions A of the user")


class Protocol(spec.Open):
    """How the user talks to the agents. Further keys are parameters of a protocol from a plugin."""

    kind: Annotated[str, spec.named(PROTOCOLS, without=("conversation",))] = Field(
        default="pooled", description="protocol"
    )
    temperature: Number | None = Field(default=None, description="of Selection; by default 0.3")


class User(spec.Open):
    """How the user acts. Further keys are parameters of the user's class."""

    kind: Annotated[str | None, spec.named(USERS)] = Field(default=None, description="user; by default quantal")
    precision: Number | None = Field(
        default=None, description="how precisely the user optimises; by default 5 if quantal"
    )


class Goal(Section):
    """What the parameters are tuned for."""

    over_games: Literal[OVER_GAMES] = Field(  # pyright: ignore[reportInvalidTypeForm]
        default="mean", description="how the values of games are combined"
    )
    level: Number = Field(default=0.1, description="share of the worst games, or softness, for those that need one")
    over_starts: Literal[OVER_STARTS] = Field(  # pyright: ignore[reportInvalidTypeForm]
        default="mean", description="how the values of starts are combined"
    )


def _names(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else (value,) if isinstance(value, str) else value


def _distinct(names: tuple) -> tuple:
    if not names or len(set(names)) < len(names):
        raise ValueError(f"expected distinct mechanisms, at least one, got {list(names)!r:.80}")
    return names


class Tune(Section):
    """How widely and how long parameters are searched; as the arguments of `em.tune`."""

    mechanisms: Annotated[
        tuple[Annotated[str, spec.named(MECHANISMS)], ...], BeforeValidator(_names), AfterValidator(_distinct)
    ] = Field(default=("transfers",), description="mechanisms that are tuned together")
    steps: int = whole(100, "gradient steps")
    learning_rate: Number = Field(default=0.1, gt=0, lt=float("inf"), description="of Adam")
    starts: int = whole(1, "equilibria of each game")
    restarts: int = whole(1, "points that gradients move")
    draws: int | None = whole(None, "points drawn, the best of which are the restarts; by default as many")
    polish: int | None = whole(None, "points tried near the best at the end", 0)
    finalists: int = whole(1, "points compared by certified equilibria at the end")
    agents_precision: Number = Field(
        default=10.0,
        gt=0,
        lt=float("inf"),
        description="of the agents in the smoothed equilibria that are differentiated",
    )


class Tuning(Section):
    """A tuning run, but for the sections of mechanisms, which `specification` adds."""

    seed: int = whole(0, "seed of games, starts and points", 0, spec.MOST_SEED)
    games: Games = Games()
    protocol: Protocol = Protocol()
    user: User = User()
    objective: Goal = Goal()
    tune: Tune = Tune()


def specification() -> type[Tuning]:
    """`Tuning` with a section for each registered mechanism, whose keys are the parameters of its class."""
    own: dict[str, Any] = {}
    for name, mechanism in MECHANISMS.items():
        words = {x.name: x.metadata["words"] for x in dataclasses.fields(mechanism) if "words" in x.metadata}
        inside: dict[str, Any] = {}
        for key, parameter in MECHANISMS.parameters(name).items():
            default = None if parameter.default is parameter.empty else parameter.default
            kind: Any = {bool: bool, int: int, str: str}.get(type(default), Number)
            kind = Literal[tuple(words[key])] if key in words else kind
            inside[key] = (kind | None, default)
        made = pydantic.create_model(name, __base__=Section, **inside)
        own[name] = (made, made())
    return pydantic.create_model("Tuning", __base__=Tuning, **own)


class Setup(NamedTuple):
    """What a config stands for; `held_out` are the games of the evaluation."""

    games: Game
    held_out: Game
    protocol: AbstractProtocol
    user: AbstractUser
    mechanism: AbstractMechanism
    objective: Objective
    solver: SmoothPlay


@dataclasses.dataclass(frozen=True)
class Config:
    """made: of `specification`. plugins: digests by file."""

    path: str
    title: str
    made: Tuning
    plugins: dict[str, str] = dataclasses.field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """For the manifest; `seed` as there."""
        found = {name: toml.plain_value(value) for name, value in spec.flat(self.made).items()}
        if self.made.protocol.temperature is None and self.made.protocol.kind in BUILT_IN_PROTOCOLS:
            found["protocol.temperature"] = DEFAULT_TEMPERATURE
        if self.made.user.precision is None and self.made.user.kind is None:
            found["user.precision"] = DEFAULT_PRECISION
        plugins = {"plugins": self.plugins} if self.plugins else {}
        return {"title": self.title, **plugins} | found

    def as_json(self) -> str:
        """For other processes."""
        return json.dumps([self.path, self.title, self.made.model_dump_json(), self.plugins])

    @classmethod
    def of_json(cls, text: str) -> Config:
        path, title, made, plugins = json.loads(text)
        return cls(path, title, specification().model_validate_json(made, strict=False), plugins)


def read(config: str, changes: Flat | None = None) -> Config:
    """The config at a path, or the shipped one of that name, with other values of some keys. Raises as `plan.plan`."""
    return parse(toml.text_of(config, FOLDER), config, changes)


def parse(text: str, path: str, changes: Flat | None = None) -> Config:
    """A config from TOML text; `path` is what messages call it."""
    of = specification()
    known = spec.fields(of)
    given = spec.given_keys(((f"{path}: ", toml.document(text, path, known)), ("", changes or {})), ("title",), known)
    title = given.pop("title", path)
    made = spec.make(of, given)
    for name in given:
        if (part := name.split(".")[0]) in MECHANISMS and part not in made.tune.mechanisms:
            raise ValueError(f"{path}: {name}: {part} is not among tune.mechanisms")
    return Config(path, title, made)


def setup(config: Config) -> Setup:
    """Modules and games, checked. `ValueError` names the file and what is wrong."""
    known = spec.fields(specification())
    with spec.placed(f"{config.path}: ", words=lambda words: spec.by_key(words, known)):
        return _setup(config.made)


def _setup(made: Tuning) -> Setup:
    own = made.games.drawing()
    held_out = own.pop("held_out")
    families.check_arguments(**own)
    families.require_room(**(own | {"count": own["count"] + held_out}))
    protocol, user = _players(made.protocol, made.user)
    mechanisms = tuple(_make(name, getattr(made, name)) for name in made.tune.mechanisms)
    mechanism = mechanisms[0] if len(mechanisms) == 1 else Several(mechanisms)
    objective = Objective(**made.objective.model_dump())
    solver = SmoothPlay(made.tune.agents_precision)
    differentiable.check(protocol, user, solver)
    small = jax.tree.map(jnp.asarray, any_game(**own))  # nothing is drawn that is too large to go on with
    mechanism.check(small, protocol, user)
    under = mechanism.apply(mechanism.init(small), small, protocol, user)
    check_sizes(under[0], under[1], under[2], under[1].messages(under[0]), alone=False, exactly=False)
    check_sizes(under[0], protocol, user, protocol.messages(under[0]), alone=False, exactly=True)
    _require_room(loop_plan(made.tune), made.tune.steps, under[0], under[1], own["count"])
    key = jax.random.fold_in(jax.random.key(made.seed), FAMILIES[own["family"]].key)
    games = random_games(key, **own)
    others = random_games(jax.random.fold_in(key, HELD_OUT), **(own | {"count": held_out}))
    return Setup(games, games if mechanism.per_game else others, protocol, user, mechanism, objective, solver)


def loop_plan(tune: Tune) -> Plan:
    """How widely the loop searches."""
    return Plan(*(getattr(tune, name) for name in Plan._fields)).checked()


def _players(protocol: Protocol, user: User) -> tuple[AbstractProtocol, AbstractUser]:
    if protocol.kind == "selection" and protocol.temperature == 0:
        raise ValueError(
            "protocol.temperature: expected a number > 0: the best agent's choice has no derivative, got 0.0"
        )
    of_protocol, of_user = _given(protocol), _given(user)
    if protocol.kind == "selection":
        of_protocol.setdefault("temperature", DEFAULT_TEMPERATURE)
    if user.kind is None:
        of_user.setdefault("precision", DEFAULT_PRECISION)
    made = PROTOCOLS.make(protocol.kind, of_protocol, "protocol.kind")
    return made, USERS.make(user.kind or "quantal", of_user, "user.kind")


def _make(name: str, section: Section) -> AbstractMechanism:
    try:
        return MECHANISMS[name](**_given(section))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}.{str(error).removeprefix(f'{name}: ')}") from None


def _given(section: Section) -> Flat:
    """The parameters of the class that a section is about."""
    return section.model_dump(exclude={"kind"}, exclude_none=True)


def _require_room(plan: Plan, steps: int, game: Game, protocol: AbstractProtocol, count: int) -> None:
    """Raise `ValueError` for more points, starts or steps than there is memory for."""
    messages = protocol.messages(game)
    equilibrium = 100 + 8 * COPIES * game.agents * protocol.rows(game, messages) * messages
    points = (plan.draws or 0) + 3 * plan.restarts
    needed = points * (POINT + plan.starts * count * equilibrium) + POINT * (plan.polish or 0)
    memory.require(needed, f"tune: {points} points with {plan.starts} starts in {count} games")
    memory.require(HISTORY * steps * plan.restarts, f"tune.steps: the history of {steps} steps")
