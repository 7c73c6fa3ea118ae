"""Options that commands share. Those of a specification take their help from its fields."""

from __future__ import annotations

import contextlib
import enum
import math
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from emalign_jax.experiments import toml
from emalign_jax.experiments.run_store import FORMATS
from emalign_jax.experiments.specification import Flat, fields
from emalign_jax.internal.arguments import integer, shown
from emalign_jax.report.look import FULL, NARROW, Look

# The keys that people set every day have an option of their own; the others are set by --set.
FLAGS = {
    "games": "games.file", "family": "games.family", "count": "games.count", "agents": "games.agents",
    "states": "games.states", "actions": "games.actions", "protocol": "protocol.kind", "rounds": "protocol.rounds",
    "replies": "protocol.replies", "messages": "protocol.messages", "user": "user.kind", "precision": "user.precision",
    "starts": "solver.starts", "tolerance": "solver.tolerance", "seed": "seed", "verify": "measure.verify",
}  # fmt: skip
LISTS = ("family", "agents")  # may be several, with commas
NUMBERS = ("agents", "precision")  # that are read as text


def flag(name: str, more: str = "", **look: Any) -> Any:
    """The option of a key, with the description of the key as its help."""
    words = fields()[FLAGS[name]].description or ""
    return typer.Option(help=f"{words[:1].upper()}{words[1:]}{more}.", **look)


CountOption = Annotated[int | None, flag("count")]
ProtocolOption = Annotated[str | None, flag("protocol", ": pooled, selection, conversation")]
UserOption = Annotated[str | None, flag("user")]
PrecisionOption = Annotated[str | None, flag("precision", metavar="NUMBER")]
RoundsOption = Annotated[int | None, flag("rounds")]
RepliesOption = Annotated[int | None, flag("replies")]
PluginOption = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE.py",
        help="Python file that defines protocols, users, families, mechanisms or checks of your own. It is run first; "
        "they can then be used by name. May be given several times.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Set any key of the specification (docs/specification.md), such as user.ties=lowest or "
        "protocol.compare=2; VALUE as in TOML. In a sweep a list is an axis: games.agents=[2,4]. May be given several "
        "times.",
    ),
]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        envvar="EMALIGN_CLUSTER",
        metavar="ADDRESS",
        help="Compute on the workers of a Dask scheduler, such as tcp://host:8786 (docs/guides/cluster.md).",
    ),
]
WorkersOption = Annotated[int, typer.Option(min=1, help="Processes of this machine that compute blocks side by side.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]
ListOption = Annotated[bool, typer.Option("--list", help="Print the names of the shipped configs and stop.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of the table.")]
ForceOption = Annotated[
    bool,
    typer.Option(
        "--force/--resume",
        help="Where a run is there already, start anew, or go on. With --force files that are not its own stay.",
    ),
]


FormatOption = Annotated[
    str | None, typer.Option("--format", metavar="png,pdf,svg", help="Formats of the figures; default png,pdf.")
]
WidthOption = Annotated[
    str | None,
    typer.Option(
        "--width",
        metavar="INCHES",
        help=f"Width of the figures, at which fonts are 7 to 8 points: {FULL:g} (default; the text of a page), "
        f"{NARROW:g} (one of two columns), or another. A run that is done is drawn again.",
    ),
]
WIDEST, NARROWEST = 20.0, 2.5  # inches


class Offset(enum.StrEnum):
    none = "none"
    constant = "constant"
    per_state = "per_state"


class Norm(enum.StrEnum):
    l2 = "l2"
    sup = "sup"


def shipped(config: str | None, list_: bool, folder: str = "") -> str:
    """The specification that was named, a file or a shipped one. With --list the titles of all shipped ones are printed
    and the command ends."""
    names = toml.shipped(folder)
    if list_:
        for name in names:
            print(f"{name:<12} {tomllib.loads(toml.text_of(name, folder))['title']}")
        raise typer.Exit()
    if config is None:
        raise ValueError(f"SPEC.toml: expected a file or one of {', '.join(names)}")
    return config


def settings(set_: list[str] | None, flags: dict[str, Any] | None = None) -> Flat:
    """{"section.key": value} of options that were given and of all `--set`. Raises `ValueError` that names the one that
    is wrong.

    flags: {name of FLAGS: value}, None for those that were not given
    """
    found: Flat = {}
    for name, value in (flags or {}).items():
        if value is not None:
            several = [part.strip() for part in value.split(",")] if name in LISTS else [value]
            several = [_number(part) for part in several] if name in NUMBERS else several
            found[FLAGS[name]] = several if len(several) > 1 else several[0]
    for text in set_ or []:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not (equals and name):
            raise ValueError(f"--set: expected SECTION.KEY=VALUE, got {shown(text)}")
        if name in found:
            own = next((option for option, key in FLAGS.items() if key == name), "")
            both = (flags or {}).get(own) is not None
            what = f"means the same as --{own}; give one of them" if both else "given twice"
            raise ValueError(f"--set: {shown(name)}: {what}")
        found[name] = _value(name, value.strip())
    return found


def _number(text: str) -> Any:
    """A number where the text is one."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _value(name: str, text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        if text[:1] in ("[", "{", '"', "'"):
            raise ValueError(
                f'--set: {shown(name)}: expected a value as in TOML, where words in a list need quotes: ["hull", '
                f'"noise"]; got {shown(text)}'
            ) from None
        return text  # A word needs no quotes.
    if len(parsed) > 1:
        raise ValueError(f"--set: {shown(name)}: expected one value, got {shown(text)}")
    return parsed["value"]


def look(formats: str | None, width: str | None, usual: tuple[str, ...] = (".png", ".pdf")) -> Look:
    """How figures are written, by --format and --width. usual: formats where none are given"""
    kinds = usual if formats is None else tuple(dict.fromkeys(f".{part.strip()}" for part in formats.split(",")))
    if not set(kinds) <= set(FORMATS):
        known = ", ".join(kind[1:] for kind in FORMATS)
        raise ValueError(f"--format: expected some of {known}, with commas between them, got {shown(formats)}")
    try:
        inches = FULL if width is None else float(width)
    except ValueError:
        inches = math.nan
    if not NARROWEST <= inches <= WIDEST:
        raise ValueError(f"--width: expected inches, from {NARROWEST:g} to {WIDEST:g}, got {shown(width)}")
    return Look(inches, kinds, formats is not None or width is not None)


def integers(option: str, text: str, least: int) -> tuple[int, ...]:
    """ "1,2,3" as integers, each at least `least`."""
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{option}: expected integers separated by commas, got {shown(text)}") from None
    for value in values:
        integer(option, value, least)
    if len(set(values)) < len(values):
        raise ValueError(f"{option}: expected distinct integers, got {shown(text)}")
    return values
