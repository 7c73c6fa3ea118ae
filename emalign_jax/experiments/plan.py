"""A grid of specifications: a TOML file, or options of a command, in which a list of values is an axis."""

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

from pydantic.fields import FieldInfo

from emalign_jax.equilibrium.solver import default_start
from emalign_jax.exact import default_tolerance
from emalign_jax.experiments import specification as spec
from emalign_jax.experiments import toml
from emalign_jax.experiments.modules import COMMON, SHARED_PARAMETERS, kind_of_user, make_protocol, make_user
from emalign_jax.experiments.specification import BUILT_IN_PROTOCOLS, TOP, Flat, Specification, placed
from emalign_jax.games.families import FAMILIES, all_knobs
from emalign_jax.protocols.base import PROTOCOLS
from emalign_jax.users.base import USERS

MOST_CELLS = 10_000
NAMES = ("games.family", "protocol.kind", "user.kind", "user.precision")  # keys that say which classes are meant
SHARED_KNOBS = ("noise", "bias", "alignment")  # taken with any family, as in `random_games`


class Cell(NamedTuple):
    """One point of the grid.

    key:  a digest of its specification alone, whatever the rest of the grid
    text: the specification in JSON, for workers
    """

    key: str
    specification: Specification
    values: Flat
    text: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """A grid of specifications.

    path:    what messages call it
    block:   games computed and kept at a time; None: those of `grid.check.block_size`
    grid:    a tuple of values for every key; keys with several values are the axes
    given:   the keys that were given, the others have their defaults
    counts:  of the games of a file, by number of agents; None for random games
    plugins: digests by file
    """

    path: str
    title: str
    block: int | None
    grid: dict[str, tuple]
    given: frozenset[str] = frozenset()
    counts: dict[int, int] | None = None
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
        """In the order of the keys, the last axis fastest. Raises `ValueError` that names the key and the point."""
        return self._cells

    @functools.cached_property
    def _cells(self) -> list[Cell]:
        points = itertools.product(*self.grid.values())
        return [self._cell(dict(zip(self.grid, point, strict=True))) for point in points]

    def _cell(self, values: Flat) -> Cell:
        own = {name: values[name] for name in values if name in self.given and _taker(name, values)[1]}
        if self.counts is not None:
            own["games.count"] = self.counts[values["games.agents"]]
        with placed(*self.place(values)):
            made = _resolved(spec.make(Specification, own))
        plain = {name: toml.plain_value(x) for name, x in spec.flat(made).items()}
        plain["games.file"] = None  # What it holds counts, which games.digest says, not where it lies.
        text = json.dumps(plain, sort_keys=True, allow_nan=False)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        return Cell(key, made, values, made.model_dump_json(exclude_unset=True))

    def place(self, values: Flat) -> tuple[str, str]:
        """What an error message about a point of the grid begins and ends with: the file, and the point."""
        at = ", ".join(f"{name} = {values[name]}" for name in self.axes)
        return _where(self.path), f" (at {at})" if at else ""

    def refuse_unused(self) -> None:
        """Raise `ValueError` for a key that no class of the grid takes, or an axis that not all take."""
        for name in sorted(self.given):
            points = itertools.product(*(self.grid[key] for key in NAMES))
            takers = dict(_taker(name, dict(zip(NAMES, point, strict=True))) for point in points)
            if not any(takers.values()):
                raise ValueError(f"{_where(self.path)}{name}: {', '.join(takers)} has no such parameter; leave it out")
            if name in self.axes and not all(takers.values()):
                without = ", ".join(kind for kind, taken in takers.items() if not taken)
                raise ValueError(f"{_where(self.path)}{name}: cannot be an axis, for {without} has no such parameter")

    @property
    def tolerances(self) -> tuple[float, ...]:
        """Those in effect, ascending: of each cell what was given, else the default of its protocol and user."""
        try:
            known = {cell.specification.solver.tolerance for cell in self.cells()}
        except (ValueError, KeyError):  # A manifest may name classes of a plugin.
            known = set(self.grid["solver.tolerance"])
        return tuple(sorted(number for number in known if number is not None))

    def plain(self) -> dict[str, Any]:
        """For the manifest: JSON that differs if and only if the table may."""
        grid = {name: [toml.plain_value(x) for x in values] for name, values in self.grid.items()}
        tolerances = self.tolerances
        if self.grid["solver.tolerance"] == (None,) and len(tolerances) == 1:
            grid["solver.tolerance"] = list(tolerances)  # one number, however it came about
        plugins = {"plugins": self.plugins} if self.plugins else {}
        return {"title": self.title, "block": self.block, **plugins} | {
            name: values if len(values) > 1 else values[0] for name, values in grid.items()
        }


def _where(path: str) -> str:
    return f"{path}: " if path else ""


def _taker(name: str, values: Flat) -> tuple[str, bool]:
    """The class that a point of the grid names in the section of the key, and whether it takes the key."""
    part, _, key = name.partition(".")
    if part == "protocol" and key not in COMMON:
        kind = values["protocol.kind"]
        return kind, key in (SHARED_PARAMETERS if kind in BUILT_IN_PROTOCOLS else PROTOCOLS.parameters(kind))
    if part == "user" and key not in COMMON:
        kind = kind_of_user(values["user.kind"], values["user.precision"])
        meant = key == "precision" and values["user.kind"] is None
        return kind, meant or key in USERS.parameters(kind)
    if part == "games" and key in all_knobs() and key not in SHARED_KNOBS:
        return values["games.family"], key in FAMILIES[values["games.family"]].knobs()
    return "", True


def _resolved(found: Specification) -> Specification:
    """With the start, the tolerance and the user's features that are meant where none are given."""
    protocol = make_protocol(found.protocol)
    user = make_user(found.user, protocol)
    solver, games = found.solver, found.games
    start = solver.start or default_start(protocol, found.measure.verify)
    tolerance = default_tolerance(protocol, user) if solver.tolerance is None else solver.tolerance
    features = games.user_features
    if features is None and games.file is None:
        features = 1 if protocol.conversation is None else 3
    return found.model_copy(
        update={
            "solver": solver.model_copy(update={"start": start, "tolerance": tolerance}),
            "games": games.model_copy(update={"user_features": features}),
        }
    )


def plan(given: Flat, path: str, changes: Flat | None = None, **more: Any) -> Plan:
    """The grid of {"section.key": value or list of values}.

    path: what messages call what is given; changes: other values of some keys, from options and `--set`
    Raises `ValueError` that names the file, or the option, the key and the rule.
    """
    found = spec.given_keys(((_where(path), given), ("", changes or {})), (*TOP,), spec.fields(), _values)
    made = _grid(found, path, **more)
    for name, rule in (("games.file", "expected the name of one file"), ("games.digest", "is computed; leave it out")):
        if made.counts is None and made.grid[name] != (None,):
            raise ValueError(f"{_where(path)}{name}: {rule}")
    made.refuse_unused()
    return made


def _grid(found: Flat, path: str, **more: Any) -> Plan:
    """found: tuples of values for keys, and those of TOP as they are.

    Section by section, further keys last, by name: however a file is written, its axes are in one order.
    """
    known = spec.fields()
    grid: dict[str, tuple] = {name: (info.get_default(call_default_factory=True),) for name, info in known.items()}
    given = {name: values for name, values in found.items() if name not in TOP}
    sections = list(dict.fromkeys(name.rpartition(".")[0] for name in known))
    place = dict(zip(known, range(len(known)), strict=True))
    order = sorted(grid | given, key=lambda x: (sections.index(x.rpartition(".")[0]), place.get(x, len(known)), x))
    grid = {name: given.get(name, grid.get(name, ())) for name in order}
    count = math.prod(map(len, grid.values()))
    if count > MOST_CELLS:
        axes = " x ".join(f"{name} ({len(values)})" for name, values in grid.items() if len(values) > 1)
        raise ValueError(f"{_where(path)}{axes}: expected at most {MOST_CELLS} cells, got {count}")
    return Plan(path, found.get("title", Path(path).stem), found.get("block"), grid, frozenset(given), **more)


def _values(name: str, value: Any, info: FieldInfo | None, any_name: bool) -> tuple:
    """The values of a key, one or those of an axis."""
    several = value if isinstance(value, list) else [value]
    if not several:
        raise ValueError(f"{name}: expected a value or a list of some, got an empty list")
    values = tuple(spec.validated(name, x, info, any_name) for x in several)
    if len(values) > 1 and None in values:  # which JSON has and TOML has not
        raise ValueError(f"{name}: expected values, got {reprlib.repr(several)}")
    if len(set(values)) < len(values):
        raise ValueError(f"{name}: expected distinct values, got {reprlib.repr(several)}")
    return values


def from_manifest(plain: dict[str, Any], path: str) -> Plan:
    """The plan whose `plain` form a manifest holds. What a plugin defined need not be known."""
    given = {name: value for name, value in plain.items() if name != "plugins" and value is not None}
    return _grid(spec.given_keys([(f"{path}: ", given)], (*TOP,), spec.fields(), _values, True), path)


def document(config: str) -> Flat:
    """The keys and values of the TOML file at a path, or of the shipped one of that name where there is no such file.

    Raises `ValueError`, or `FileNotFoundError`, in one line that names the file, the key and what would be right.
    """
    return toml.document(toml.text_of(config), config, spec.fields())


def parse(text: str, path: str, changes: Flat | None = None, **more: Any) -> Plan:
    """A plan from TOML text; `path` is what messages call it."""
    return plan(toml.document(text, path, spec.fields()), path, changes, **more)
