"""A sweep's config: a TOML file in which a list of values is an axis of the grid."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import reprlib
from pathlib import Path
from typing import Any, NamedTuple

from emalign_jax.equilibrium.solver import STARTS
from emalign_jax.exact import default_tolerance
from emalign_jax.experiments import toml
from emalign_jax.experiments.toml import Option, plain_value
from emalign_jax.experiments.words import Method, Protocol, ReplyRule, ReplyTo, Ties, make_protocol, make_user
from emalign_jax.games.families import FAMILIES, all_knobs
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.users.base import AbstractUser

BLOCK = 50  # games done and written at a time, unless the config says otherwise
MOST_CELLS = 10_000
BUILT_IN = {"noise", "bias", "alignment"}  # knobs in the key of every cell; others where the family has them


OPTIONS: dict[str, Option] = {
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
    "protocol.kind": Option("word", "selection", words=tuple(Protocol)),
    "protocol.temperature": Option("number", 0.0),
    "protocol.compare": Option("whole", None, 1),
    "protocol.rounds": Option("whole", None, 1),
    "protocol.replies": Option("whole", None, 1),
    "protocol.messages": Option("whole", None, 1),
    "user.precision": Option("number", math.inf),
    "user.ties": Option("word", "agents", words=tuple(Ties)),
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

WHO = (  # decide what a cell's modules are
    "protocol.kind", "protocol.temperature", "protocol.compare", "protocol.rounds", "protocol.replies",
    "user.precision", "user.ties",
)  # fmt: skip
Values = dict[str, Any]  # one value, of a plain type, for every key of OPTIONS


class Cell(NamedTuple):
    """One point of the grid; key is a digest of its values alone, whatever the rest of the grid."""

    key: str
    values: Values


@dataclasses.dataclass(frozen=True)
class Config:
    """grid: a tuple of values for every key of OPTIONS; keys with several values are the axes."""

    path: str
    title: str
    block: int
    grid: dict[str, tuple]

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(name for name, values in self.grid.items() if len(values) > 1)

    def cells(self) -> list[Cell]:
        """In the order of OPTIONS, the last axis fastest."""
        points = itertools.product(*self.grid.values())
        return [_cell(dict(zip(self.grid, point, strict=True))) for point in points]

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
        grid = {name: [plain_value(x) for x in values] for name, values in self.grid.items()}
        if self.grid["solver.tolerance"] == (None,) and len(self.tolerances) == 1:
            grid["solver.tolerance"] = list(self.tolerances)  # one number, however it came about
        return {"title": self.title, "block": self.block} | {
            name: values if len(values) > 1 else values[0] for name, values in grid.items()
        }


def shipped() -> list[str]:
    """Names of the configs that come with the package."""
    return toml.shipped()


def read(config: str) -> Config:
    """The config at a path, or the shipped one of that name where there is no such file.

    Raises `ValueError`, or `FileNotFoundError`, in one line that names the file, the key and what would be right.
    """
    return parse(toml.text_of(config), config)


def parse(text: str, path: str) -> Config:
    """A config from TOML text; `path` is what messages call it."""
    return _config(toml.flatten(toml.document(text, path), path, OPTIONS, ("title", "block")), path)


def from_manifest(plain: dict[str, Any], path: str) -> Config:
    """The config whose `plain` form a manifest holds."""
    given = {name: value for name, value in plain.items() if value is not None}
    for name, option in OPTIONS.items():
        if option.kind == "number" and name in given:
            values = given[name] if isinstance(given[name], list) else [given[name]]
            given[name] = [float(x) if x in ("inf", "-inf") else x for x in values]
    return _config(given, path)


def _config(given: dict[str, Any], path: str) -> Config:
    title = given.pop("title", Path(path).stem)
    if not isinstance(title, str):
        raise ValueError(f"{path}: title: expected text in quotes, got {reprlib.repr(title)}")
    block = toml.value(path, "block", Option("whole", BLOCK, 1), given.pop("block", BLOCK))
    grid = {}
    for name, option in OPTIONS.items():
        value = given.get(name, option.default)
        values = tuple(toml.value(path, name, option, x) for x in (value if isinstance(value, list) else [value]))
        if isinstance(value, list) and None in values:  # which JSON has and TOML has not
            raise ValueError(f"{path}: {name}: expected values, got {reprlib.repr(value)}")
        if not values:
            raise ValueError(f"{path}: {name}: expected a value or a list of some, got an empty list")
        if len(set(values)) < len(values):
            raise ValueError(f"{path}: {name}: expected distinct values, got {reprlib.repr(value)}")
        grid[name] = values
    count = math.prod(map(len, grid.values()))
    if count > MOST_CELLS:
        axes = " x ".join(f"{name} ({len(values)})" for name, values in grid.items() if len(values) > 1)
        raise ValueError(f"{path}: {axes}: expected at most {MOST_CELLS} cells, got {count}")
    return Config(path, title, block, grid)


def modules(values: Values) -> tuple[AbstractProtocol, AbstractUser]:
    """The protocol and the user that a cell's words stand for."""
    return _modules(*(values[name] for name in WHO))


@functools.cache
def _modules(kind, temperature, compare, rounds, replies, precision, ties) -> tuple[AbstractProtocol, AbstractUser]:
    protocol = make_protocol(Protocol(kind), temperature, rounds, replies, ReplyTo.each, compare)
    return protocol, make_user(str(precision), Ties(ties), ReplyRule.plans, protocol)


def _tolerance(values: Values) -> float | None:
    """None where there is no such protocol or user, which `cell.check` says in its own words."""
    if values["solver.tolerance"] is not None:
        return values["solver.tolerance"]
    try:
        return default_tolerance(*modules(values))
    except ValueError:
        return None


def _cell(values: Values) -> Cell:
    if values["solver.start"] is None:
        values["solver.start"] = "monopolist" if values["protocol.kind"] == "selection" else "random"
    values["solver.tolerance"] = _tolerance(values)
    others = {f"games.{name}" for name in all_knobs().keys() - FAMILIES[values["games.family"]].knobs() - BUILT_IN}
    own = {name: plain_value(value) for name, value in values.items() if name not in others}
    text = json.dumps(own, sort_keys=True, allow_nan=False)
    return Cell(hashlib.sha256(text.encode()).hexdigest()[:16], values)
