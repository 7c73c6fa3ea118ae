"""A tuning run's config: TOML with one value a key; a section for each mechanism that is tuned."""

from __future__ import annotations

import dataclasses
import re
import reprlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from emalign_jax.equilibrium.solver import check_sizes
from emalign_jax.experiments import toml
from emalign_jax.experiments.toml import Option
from emalign_jax.experiments.words import BUILT_IN_PROTOCOLS
from emalign_jax.games import families
from emalign_jax.games.families import FAMILIES, all_knobs, any_game, random_games
from emalign_jax.games.game import Game
from emalign_jax.internal import memory
from emalign_jax.internal.arguments import integer
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


def options() -> dict[str, Option]:
    """What each key of a config takes. The fields of a mechanism are the keys of its section; the arguments of named
    protocols and users, and the knobs of families, are keys too."""
    found = {
        "seed": Option("whole", 0),
        "games.family": Option("word", "shared_bias", words=tuple(FAMILIES)),
        "games.agents": Option("whole", 3, 1),
        "games.count": Option("whole", 64, 1),
        "games.held_out": Option("whole", 64, 2),
        "games.states": Option("whole", 3, 1),
        "games.actions": Option("whole", 3, 1),
        "games.user_features": Option("whole", 1, 1),
        "games.agent_features": Option("whole", None, 1),
        "games.user_information": Option("number", 0.5),
        "games.agent_information": Option("number", 1.0),
        **{f"games.{name}": Option("number", knob.default) for name, knob in all_knobs().items()},
        "games.information_worth": Option("number", 0.02),
        "protocol.kind": Option("word", "pooled", words=tuple(name for name in PROTOCOLS if name != "conversation")),
        "protocol.temperature": Option("number", None),
        "user.kind": Option("word", None, words=tuple(USERS), own=True),
        "user.precision": Option("number", None),
        "objective.over_games": Option("word", "mean", words=OVER_GAMES),
        "objective.level": Option("number", 0.1),
        "objective.over_starts": Option("word", "mean", words=OVER_STARTS),
        "tune.mechanisms": Option("word", "transfers", words=tuple(MECHANISMS)),
        "tune.steps": Option("whole", 100, 1),
        "tune.learning_rate": Option("number", 0.1),
        "tune.starts": Option("whole", 1, 1),
        "tune.restarts": Option("whole", 1, 1),
        "tune.draws": Option("whole", None, 1),
        "tune.polish": Option("whole", None, 0),
        "tune.finalists": Option("whole", 1, 1),
        "tune.agents_precision": Option("number", 10.0),
    }
    for name, mechanism in MECHANISMS.items():
        fields = {field.name: field for field in dataclasses.fields(mechanism)}
        for key, parameter in MECHANISMS.parameters(name).items():
            kind = {bool: "flag", int: "whole", str: "word"}.get(type(parameter.default), "number")
            default = None if parameter.default is parameter.empty else parameter.default
            words = fields[key].metadata.get("words", ()) if key in fields else ()
            found[f"{name}.{key}"] = Option(kind, default, 0, words)
    found |= toml.arguments(PROTOCOLS, found, "protocol", without=BUILT_IN_PROTOCOLS)
    return found | toml.arguments(USERS, found, "user")


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
    """values: one for every key of `options`; "tune.mechanisms" is a tuple of names. plugins: digests by file."""

    path: str
    title: str
    values: dict[str, Any]
    plugins: dict[str, str] = dataclasses.field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """For the manifest; `seed` as there."""
        known, plugins = options(), {"plugins": self.plugins} if self.plugins else {}
        return {"title": self.title, **plugins} | {
            name: list(x) if isinstance(x, tuple) else toml.plain_value(x)
            for name, x in self.values.items()
            if not (known[name].own and x is None)
        }


def read(config: str, changes: dict[str, Any] | None = None) -> Config:
    """The config at a path, or the shipped one of that name. Raises as `sweep.config.read`."""
    return parse(toml.text_of(config, FOLDER), config, changes)


def parse(text: str, path: str, changes: dict[str, Any] | None = None) -> Config:
    """A config from TOML text; `path` is what messages call it."""
    known = options()
    given = toml.flatten(toml.changed(toml.document(text, path), changes or {}), path, known, ("title",))
    title = given.pop("title", path)
    if not isinstance(title, str):
        raise ValueError(f"{path}: title: expected text in quotes, got {reprlib.repr(title)}")
    values = {}
    for name, option in known.items():
        value = given.get(name, option.default)
        if name == "tune.mechanisms":
            several = value if isinstance(value, list) else [value]
            values[name] = tuple(toml.value(path, name, option, x) for x in several)
            if not several or len(set(values[name])) < len(several):
                raise ValueError(
                    f"{path}: {name}: expected distinct mechanisms, at least one, got {reprlib.repr(value)}"
                )
        else:
            values[name] = toml.value(path, name, option, value)
    for name, default in (("protocol.temperature", DEFAULT_TEMPERATURE), ("user.precision", DEFAULT_PRECISION)):
        built_in = values["protocol.kind"] in BUILT_IN_PROTOCOLS if name[0] == "p" else values["user.kind"] is None
        values[name] = default if values[name] is None and built_in else values[name]
    of_protocol = {"pooled": (), "selection": ("temperature",)}.get(values["protocol.kind"])
    kinds = (("protocol", PROTOCOLS, values["protocol.kind"]), ("user", USERS, values["user.kind"] or "quantal"))
    for section, registry, kind in kinds:
        takes = registry.parameters(kind) if section == "user" or of_protocol is None else of_protocol
        for name in given:
            if name.startswith(f"{section}.") and name.partition(".")[2] not in ("kind", *takes):
                raise ValueError(f"{path}: {name}: {kind} has no such parameter; leave it out")
    unused = [
        name
        for name in given
        if name.split(".")[0] in MECHANISMS and name.split(".")[0] not in values["tune.mechanisms"]
    ]
    if unused:
        raise ValueError(f"{path}: {unused[0]}: {unused[0].split('.')[0]} is not among tune.mechanisms")
    return Config(path, title, values)


def setup(config: Config) -> Setup:
    """Modules and games, checked. `ValueError` names the file and what is wrong."""
    try:
        return _setup(config.values)
    except ValueError as error:
        text = re.sub(r"^(protocol|user):", r"\1.kind:", str(error))
        raise ValueError(f"{config.path}: {text}") from None


def _setup(values: dict[str, Any]) -> Setup:
    own = toml.section(values, "games")
    held_out = own.pop("held_out")
    families.check_arguments(**own)
    integer("held_out", held_out, 2)
    families.require_room(**(own | {"count": own["count"] + held_out}))
    protocol, user = _players(values)
    mechanisms = tuple(_make(name, values) for name in values["tune.mechanisms"])
    mechanism = mechanisms[0] if len(mechanisms) == 1 else Several(mechanisms)
    objective = Objective(values["objective.over_games"], values["objective.level"], values["objective.over_starts"])
    if not 0 < values["tune.learning_rate"] < float("inf"):
        raise ValueError(f"tune.learning_rate: expected a finite number > 0, got {values['tune.learning_rate']}")
    if not 0 < values["tune.agents_precision"] < float("inf"):
        raise ValueError(f"tune.agents_precision: expected a finite number > 0, got {values['tune.agents_precision']}")
    solver = SmoothPlay(values["tune.agents_precision"])
    differentiable.check(protocol, user, solver)
    plan = Plan(*(values[f"tune.{name}"] for name in Plan._fields)).checked()
    small = jax.tree.map(jnp.asarray, any_game(**own))  # nothing is drawn that is too large to go on with
    mechanism.check(small, protocol, user)
    under = mechanism.apply(mechanism.init(small), small, protocol, user)
    check_sizes(under[0], under[1], under[2], under[1].messages(under[0]), alone=False, exactly=False)
    check_sizes(under[0], protocol, user, protocol.messages(under[0]), alone=False, exactly=True)
    _require_room(plan, integer("steps", values["tune.steps"], 1), under[0], under[1], own["count"])
    key = jax.random.fold_in(jax.random.key(values["seed"]), FAMILIES[own["family"]].key)
    games = random_games(key, **own)
    others = random_games(jax.random.fold_in(key, HELD_OUT), **(own | {"count": held_out}))
    return Setup(games, games if mechanism.per_game else others, protocol, user, mechanism, objective, solver)


def _players(values: dict[str, Any]) -> tuple[AbstractProtocol, AbstractUser]:
    given = {name: x for name, x in values.items() if x is not None and not name.endswith(".kind")}
    of_protocol, kind = toml.section(given, "protocol"), values["protocol.kind"]
    if kind == "selection" and of_protocol["temperature"] == 0:
        raise ValueError(
            "protocol.temperature: expected a number > 0: the best agent's choice has no derivative, got 0.0"
        )
    if kind == "pooled":
        of_protocol.pop("temperature", None)
    protocol = PROTOCOLS.make(kind, of_protocol, "protocol.kind")
    return protocol, USERS.make(values["user.kind"] or "quantal", toml.section(given, "user"), "user.kind")


def _require_room(plan: Plan, steps: int, game: Game, protocol: AbstractProtocol, count: int) -> None:
    """Raise `ValueError` for more points, starts or steps than there is memory for."""
    messages = protocol.messages(game)
    equilibrium = 100 + 8 * COPIES * game.agents * protocol.rows(game, messages) * messages
    points = (plan.draws or 0) + 3 * plan.restarts
    needed = points * (POINT + plan.starts * count * equilibrium) + POINT * (plan.polish or 0)
    memory.require(needed, f"tune: {points} points with {plan.starts} starts in {count} games")
    memory.require(HISTORY * steps * plan.restarts, f"tune.steps: the history of {steps} steps")


def _make(name: str, values: dict[str, Any]) -> AbstractMechanism:
    try:
        return MECHANISMS[name](**{key: x for key, x in toml.section(values, name).items() if x is not None})
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}.{str(error).removeprefix(f'{name}: ')}") from None
