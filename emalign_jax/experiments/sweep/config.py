"""A sweep's config: a TOML file in which a list of values is an axis of the grid."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from emalign_jax.equilibrium.solver import STARTS
from emalign_jax.exact import default_tolerance
from emalign_jax.experiments import toml
from emalign_jax.experiments.toml import Option, plain_value
from emalign_jax.experiments.words import (
    BUILT_IN_PROTOCOLS,
    SHARED_PARAMETERS,
    Method,
    ReplyRule,
    Ties,
    make_protocol,
    make_user,
)
from emalign_jax.games.families import FAMILIES, all_knobs
from emalign_jax.internal.registry import Registry
from emalign_jax.protocols.base import PROTOCOLS, AbstractProtocol
from emalign_jax.users.base import USERS, AbstractUser

BLOCK = 50  # games done and written at a time, unless the config says otherwise
MOST_CELLS = 10_000
BUILT_IN = {"noise", "bias", "alignment"}  # knobs in the key of every cell; others where the family has them


def options() -> dict[str, Option]:
    """What each key of a config takes; the arguments of named protocols and users, and the knobs of families, are keys
    too."""
    found = {
        "seed": Option("whole", 0),
        "games.family": Option("word", "hull", words=tuple(FAMILIES)),
        "games.agents": Option("whole", 2, 1),
        "games.count": Option("whole", 100, 1),
        "games.states": Option("whole", 4, 1),
        "games.actions": Option("whole", 4, 1),
        "games.user_features": Option("whole", 1, 1),
        "games.agent_features": Option("whole", None, 1),
        "games.user_information": Option("number", 0.5),
        "games.agent_information": Option("number", 1.0),
        **{f"games.{name}": Option("number", knob.default) for name, knob in all_knobs().items()},
        "games.information_worth": Option("number", 0.02),
        "protocol.kind": Option("word", "selection", words=tuple(PROTOCOLS)),
        "protocol.temperature": Option("number", None),
        "protocol.compare": Option("whole", None, 1),
        "protocol.rounds": Option("whole", None, 1),
        "protocol.replies": Option("whole", None, 1),
        "protocol.messages": Option("whole", None, 1),
        "user.kind": Option("word", None, words=tuple(USERS), own=True),
        "user.precision": Option("number", None),
        "user.ties": Option("word", None, words=tuple(Ties)),
        "solver.method": Option("word", "play", words=tuple(Method)),
        "solver.start": Option("word", None, words=STARTS),
        "solver.starts": Option("whole", 1, 1),
        "solver.steps": Option("whole", None, 1),
        "solver.tolerance": Option("number", None),
        "measure.monopoly": Option("flag", True),
        "measure.stability": Option("flag", True),
        "measure.coverage": Option("flag", True),
        "measure.eps": Option("flag", True),
    }
    found |= toml.arguments(PROTOCOLS, found, "protocol", without=BUILT_IN_PROTOCOLS)
    return found | toml.arguments(USERS, found, "user")


Values = dict[str, Any]  # one value, of a plain type, for every key of `options`


class Cell(NamedTuple):
    """One point of the grid; key is a digest of its values alone, whatever the rest of the grid."""

    key: str
    values: Values


@dataclasses.dataclass(frozen=True)
class Config:
    """grid: a tuple of values for every key of `options`; keys with several values are the axes. plugins: digests by
    file."""

    path: str
    title: str
    block: int
    grid: dict[str, tuple]
    plugins: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(name for name, values in self.grid.items() if len(values) > 1)

    def kind(self, name: str) -> str:
        """The type of an axis as a column of the table: "text", "flag", "whole" or "number"."""
        types = {type(value) for value in self.grid[name]}
        names = {frozenset({bool}): "flag", frozenset({int}): "whole"}
        return names.get(frozenset(types), "number" if types <= {int, float} else "text")

    def cells(self) -> list[Cell]:
        """In the order of `options`, the last axis fastest."""
        points, known = itertools.product(*self.grid.values()), options()
        return [_cell(dict(zip(self.grid, point, strict=True)), known) for point in points]

    @property
    def tolerances(self) -> tuple[float, ...]:
        """Those in effect, ascending: of each cell what the config says, else the default of its protocol and user."""
        known = {cell.values["solver.tolerance"] for cell in self.cells()}
        return tuple(sorted(number for number in known if number is not None))

    def with_count(self, count: int | None) -> Config:
        """So many games a cell, unless None."""
        return self if count is None else dataclasses.replace(self, grid=self.grid | {"games.count": (count,)})

    def plain(self) -> dict[str, Any]:
        """For the manifest: JSON that differs if and only if the table may."""
        known = options()
        unused = [name for name, values in self.grid.items() if known[name].own and values == (None,)]
        grid = {name: [plain_value(x) for x in values] for name, values in self.grid.items() if name not in unused}
        if self.grid["solver.tolerance"] == (None,) and len(self.tolerances) == 1:
            grid["solver.tolerance"] = list(self.tolerances)  # one number, however it came about
        plugins = {"plugins": self.plugins} if self.plugins else {}
        return {"title": self.title, "block": self.block, **plugins} | {
            name: values if len(values) > 1 else values[0] for name, values in grid.items()
        }


def shipped() -> list[str]:
    """Names of the configs that come with the package."""
    return toml.shipped()


def read(config: str, changes: dict[str, Any] | None = None) -> Config:
    """The config at a path, or the shipped one of that name where there is no such file.

    changes: other values of some keys, {"section.key": value}
    Raises `ValueError`, or `FileNotFoundError`, in one line that names the file, the key and what would be right.
    """
    return parse(toml.text_of(config), config, changes)


def parse(text: str, path: str, changes: dict[str, Any] | None = None) -> Config:
    """A config from TOML text; `path` is what messages call it."""
    document, known = toml.changed(toml.document(text, path), changes or {}), options()
    given = toml.flatten(document, path, known, ("title", "block"))
    found = _config(dict(given), path, known)
    for name in given:
        section, _, key = name.partition(".")
        takers = _takers(found, section, key)
        if takers is None:
            continue
        if not any(takers.values()):
            raise ValueError(f"{path}: {name}: {_listed(takers)} has no such parameter; leave it out")
        if name in found.axes and not all(takers.values()):
            without = _listed(kind for kind, takes in takers.items() if not takes)
            raise ValueError(f"{path}: {name}: cannot be an axis, for {without} has no such parameter")
    return found


def _listed(kinds: Iterable[str | None]) -> str:
    return ", ".join("a user without user.kind" if kind is None else kind for kind in kinds)


def _takers(config: Config, section: str, key: str) -> dict[str | None, bool] | None:
    """Which kinds of protocol or user, or which families, of the grid take a key; None for keys that all have."""
    if section == "protocol" and key not in ("kind", "messages"):
        return {kind: key in _takes(PROTOCOLS, kind) for kind in config.grid["protocol.kind"]}
    if section == "user" and key != "kind":
        return {kind: key in _takes(USERS, kind) for kind in config.grid["user.kind"]}
    if section == "games" and key in all_knobs().keys() - BUILT_IN:
        return {name: key in FAMILIES[name].knobs() for name in config.grid["games.family"]}
    return None


def _takes(registry: Registry, kind: str | None) -> set[str]:
    """The parameters of a kind of protocol or user."""
    if kind in BUILT_IN_PROTOCOLS:
        return set(SHARED_PARAMETERS)
    if kind is None:
        return {"precision", "ties"}
    return set(registry.parameters(kind)) if kind in registry else set()


def from_manifest(plain: dict[str, Any], path: str) -> Config:
    """The config whose `plain` form a manifest holds. What a plugin defined need not be known."""
    given = {name: value for name, value in plain.items() if value is not None and name != "plugins"}
    known = {name: option._replace(words=()) for name, option in options().items()}
    sections = ("games.", "protocol.", "user.")
    known |= {n: Option("any", None, own=True) for n in given if n not in known and n.startswith(sections)}
    for name, option in known.items():
        if option.kind == "number" and name in given:
            values = given[name] if isinstance(given[name], list) else [given[name]]
            given[name] = [float(x) if x in ("inf", "-inf") else x for x in values]
    return _config(given, path, known)


def _config(given: dict[str, Any], path: str, known: dict[str, Option]) -> Config:
    title = given.pop("title", Path(path).stem)
    if not isinstance(title, str):
        raise ValueError(f"{path}: title: expected text in quotes, got {reprlib.repr(title)}")
    block = toml.value(path, "block", Option("whole", BLOCK, 1), given.pop("block", BLOCK))
    grid = {}
    for name, option in known.items():
        value = given.get(name, option.default)
        values = tuple(toml.value(path, name, option, x) for x in (value if isinstance(value, list) else [value]))
        if isinstance(value, list) and None in values:  # which JSON has and TOML has not
            raise ValueError(f"{path}: {name}: expected values, got {reprlib.repr(value)}")
        if not values:
            raise ValueError(f"{path}: {name}: expected a value or a list of some, got an empty list")
        if len(set(values)) < len(values):
            raise ValueError(f"{path}: {name}: expected distinct values, got {reprlib.repr(value)}")
        grid[name] = values
    kinds = itertools.product(grid["protocol.kind"], grid["user.kind"])
    for name, default in dict(set.intersection(*(set(_defaults(pair).items()) for pair in kinds))).items():
        grid[name] = (default,) if grid[name] == (None,) else grid[name]
    count = math.prod(map(len, grid.values()))
    if count > MOST_CELLS:
        axes = " x ".join(f"{name} ({len(values)})" for name, values in grid.items() if len(values) > 1)
        raise ValueError(f"{path}: {axes}: expected at most {MOST_CELLS} cells, got {count}")
    return Config(path, title, block, grid)


def modules(values: Values) -> tuple[AbstractProtocol, AbstractUser]:
    """The protocol and the user that a cell's words stand for."""
    return _modules(
        values["protocol.kind"], tuple(_arguments(values, "protocol").items()),
        values["user.kind"], tuple(_arguments(values, "user").items()),
    )  # fmt: skip


def _arguments(values: Values, section: str) -> dict[str, Any]:
    """The values of a section that the kind of protocol or user takes."""
    registry, kind = (PROTOCOLS, values["protocol.kind"]) if section == "protocol" else (USERS, values["user.kind"])
    takes = _takes(registry, kind)
    if section == "user" and kind is None and values["user.precision"] != math.inf:
        takes = {"precision"}  # Of a grid some users are rational, and break ties.
    inside = toml.section(values, section)
    return {key: x for key, x in inside.items() if key in takes and x is not None}


@functools.cache
def _modules(kind: str, of_protocol: tuple, user: str | None, of_user: tuple) -> tuple[AbstractProtocol, AbstractUser]:
    protocol = make_protocol(kind, dict(of_protocol))
    return protocol, make_user(user, dict(of_user), ReplyRule.plans, protocol)


def _tolerance(values: Values) -> float | None:
    """None where there is no such protocol or user, which `cell.check` says in its own words."""
    if values["solver.tolerance"] is not None:
        return values["solver.tolerance"]
    try:
        return default_tolerance(*modules(values))
    except ValueError:
        return None


def _defaults(kinds: tuple[str, str | None]) -> dict[str, Any]:
    """What is meant where a config does not say, with these kinds of protocol and user."""
    of_protocol = {"protocol.temperature": 0.0} if kinds[0] in BUILT_IN_PROTOCOLS else {}
    return of_protocol | ({"user.precision": math.inf, "user.ties": "agents"} if kinds[1] is None else {})


def _cell(values: Values, known: dict[str, Option]) -> Cell:
    defaults = _defaults((values["protocol.kind"], values["user.kind"]))
    values |= {name: default for name, default in defaults.items() if values[name] is None}
    if values["solver.start"] is None:
        values["solver.start"] = "monopolist" if values["protocol.kind"] == "selection" else "random"
    values["solver.tolerance"] = _tolerance(values)
    family = FAMILIES.get(values["games.family"])
    others = {f"games.{name}" for name in all_knobs().keys() - (family.knobs().keys() if family else ()) - BUILT_IN}
    others |= {name for name, option in known.items() if option.own and values[name] is None}
    own = {name: plain_value(value) for name, value in values.items() if name not in others}
    text = json.dumps(own, sort_keys=True, allow_nan=False)
    return Cell(hashlib.sha256(text.encode()).hexdigest()[:16], values)
