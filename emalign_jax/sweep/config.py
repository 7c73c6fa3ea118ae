"""A sweep's config: a TOML file in which a list of values is an axis of the grid."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import itertools
import json
import math
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from emalign_jax.families import FAMILIES
from emalign_jax.search.words import Method, Protocol, Ties
from emalign_jax.solve import STARTS

BLOCK = 50  # games done and written at a time, unless the config says otherwise
MOST_CELLS = 10_000
MOST_SEED = 2**32 - 1


class Option(NamedTuple):
    """What a key takes. default None: left to the library, or to the protocol.

    kind: "word" (one of `words`), "whole" (an integer, at least `least`), "number" or "flag"
    """

    kind: str
    default: Any
    least: int = 0
    words: tuple[str, ...] = ()


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
    "games.noise": Option("number", 1.0),
    "games.bias": Option("number", 1.0),
    "games.alignment": Option("number", 0.5),
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
    "solver.tolerance": Option("number", 1e-3),
    "measure.monopoly": Option("flag", True),
    "measure.stability": Option("flag", True),
    "measure.coverage": Option("flag", True),
    "measure.eps": Option("flag", True),
}
SECTIONS = tuple(dict.fromkeys(name.split(".")[0] for name in OPTIONS if "." in name))

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

    def with_count(self, count: int | None) -> Config:
        """So many games a cell, unless None."""
        return self if count is None else dataclasses.replace(self, grid=self.grid | {"games.count": (count,)})

    def plain(self) -> dict[str, Any]:
        """For the manifest: JSON that differs if and only if the table may."""
        grid = {name: [plain_value(x) for x in values] for name, values in self.grid.items()}
        return {"title": self.title, "block": self.block} | {
            name: values if len(values) > 1 else values[0] for name, values in grid.items()
        }


def shipped() -> list[str]:
    """Names of the configs that come with the package."""
    return sorted(file.name.removesuffix(".toml") for file in _shipped().iterdir() if file.name.endswith(".toml"))


def read(config: str) -> Config:
    """The config at a path, or the shipped one of that name where there is no such file.

    Raises `ValueError`, or `FileNotFoundError`, in one line that names the file, the key and what would be right.
    """
    path = Path(config)
    if config in shipped() and not path.is_file():  # a sweep may go to a directory of its config's name
        return parse((_shipped() / f"{config}.toml").read_text("utf-8"), config)
    if path.is_dir():
        raise ValueError(f"{config}: expected a TOML file, got a directory")
    if not path.exists():
        close = difflib.get_close_matches(config, shipped(), 1)
        hint = f"did you mean {close[0]}?" if close else f"shipped configs: {', '.join(shipped())}"
        raise FileNotFoundError(f"{config}: no such file, and no shipped config of that name; {hint}")
    try:
        return parse(path.read_bytes().decode("utf-8-sig"), config)
    except UnicodeDecodeError as error:
        raise ValueError(f"{config}: expected a TOML file in UTF-8, byte {error.start + 1} is not") from None


def parse(text: str, path: str) -> Config:
    """A config from TOML text; `path` is what messages call it."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason = str(error).replace("at end of document", f"at line {len(text.splitlines())}, where the file ends")
        raise ValueError(f"{path}: not TOML: {reason}") from None
    given = _flatten(document, path)
    title = given.pop("title", Path(path).stem)
    if not isinstance(title, str):
        raise ValueError(f"{path}: title: expected text in quotes, got {title!r}")
    block = _value(path, "block", Option("whole", BLOCK, 1), given.pop("block", BLOCK))
    grid = {}
    for name, option in OPTIONS.items():
        value = given.get(name, option.default)
        values = tuple(_value(path, name, option, x) for x in (value if isinstance(value, list) else [value]))
        if not values:
            raise ValueError(f"{path}: {name}: expected a value or a list of some, got an empty list")
        if len(set(values)) < len(values):
            raise ValueError(f"{path}: {name}: expected distinct values, got {value}")
        grid[name] = values
    count = math.prod(map(len, grid.values()))
    if count > MOST_CELLS:
        axes = " x ".join(f"{name} ({len(values)})" for name, values in grid.items() if len(values) > 1)
        raise ValueError(f"{path}: {axes}: expected at most {MOST_CELLS} cells, got {count}")
    return Config(path, title, block, grid)


def from_manifest(plain: dict[str, Any], path: str) -> Config:
    """The config whose `plain` form a manifest holds."""
    given = {name: value for name, value in plain.items() if name not in ("title", "block") and value is not None}
    grid = {}
    for name, option in OPTIONS.items():
        value = given.get(name)
        values = value if isinstance(value, list) else [value]
        numbers = option.kind == "number"
        grid[name] = tuple(_value(path, name, option, float(x) if numbers and x is not None else x) for x in values)
    return Config(path, str(plain.get("title", "")), int(plain.get("block", BLOCK)), grid)


def _shipped():
    return resources.files("emalign_jax") / "configs"


def _flatten(document: dict, path: str) -> dict[str, Any]:
    """{"games.family": ...} of known keys; unknown ones are refused with the nearest known one."""
    known = ["title", "block", *OPTIONS]
    flat = {}
    for name, value in document.items():
        if name in SECTIONS:
            if not isinstance(value, dict):
                raise ValueError(f"{path}: {name}: expected a section [{name}] with keys, got {value!r}")
            for key, inner in value.items():
                flat[f"{name}.{key}"] = inner
        elif isinstance(value, dict):
            raise ValueError(f"{path}: [{name}]: no such section; {_nearest(name, SECTIONS, '[{}]')}")
        else:
            flat[name] = value
    for name in flat:
        if name not in known:
            raise ValueError(f"{path}: {name}: no such key; {_nearest(name, known)}")
    return flat


def _nearest(name: str, known, form: str = "{}") -> str:
    """What was probably meant: the same key elsewhere, or one that is spelt nearly so."""
    last = name.split(".")[-1]
    same = [full for full in known if full.split(".")[-1] == last]
    close = same or difflib.get_close_matches(name, known, 1, 0.7)
    if not close and "." in name:
        close = [full for near in difflib.get_close_matches(last, [k.split(".")[-1] for k in known], 1)
                 for full in known if full.split(".")[-1] == near]  # fmt: skip
    if close:
        return f"did you mean {form.format(close[0])}?"
    inside = [full for full in known if full.startswith(name.split(".")[0] + ".")] if "." in name else known
    return "expected " + ", ".join(form.format(full) for full in inside)


def _value(path: str, name: str, option: Option, value: Any) -> Any:
    """`value` as the option's plain type."""
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if option.kind == "word":
        if value in option.words:
            return str(value)
        close = difflib.get_close_matches(str(value), option.words, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{path}: {name}: expected one of {', '.join(option.words)}, got {value!r}{hint}")
    if option.kind == "flag":
        if isinstance(value, bool):
            return value
        raise ValueError(f"{path}: {name}: expected true or false, got {value!r}")
    if option.kind == "whole":
        if number and isinstance(value, int) and option.least <= value <= MOST_SEED:
            return value
        too_large = number and isinstance(value, int) and value > MOST_SEED
        rule = f"<= {MOST_SEED}" if too_large else f">= {option.least}"
        raise ValueError(f"{path}: {name}: expected an integer {rule}, got {value!r}")
    if number and not math.isnan(value):
        return float(value)
    raise ValueError(f"{path}: {name}: expected a number, got {value!r}")


def _cell(values: Values) -> Cell:
    if values["solver.start"] is None:
        values["solver.start"] = "monopolist" if values["protocol.kind"] == "selection" else "random"
    text = json.dumps({name: plain_value(value) for name, value in values.items()}, sort_keys=True, allow_nan=False)
    return Cell(hashlib.sha256(text.encode()).hexdigest()[:16], values)


def plain_value(value):
    """A value as JSON takes it, which has no infinity."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
