"""Options that commands share."""

from __future__ import annotations

import enum
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from emalign_jax.experiments.words import ReplyRule, ReplyTo, Ties
from emalign_jax.internal.arguments import integer, shown

TOP = ("seed", "title", "block")  # keys of a config outside its sections

RoundsOption = Annotated[
    int | None,
    typer.Option(help="Rounds R of messages; default 2 in a conversation. With selection: after it."),
]
RepliesOption = Annotated[int | None, typer.Option(help="Replies Q of the user after each round but the last.")]
CompareOption = Annotated[
    int | None, typer.Option(help="With selection: how many agents, drawn at random, are compared; default all.")
]
ReplyToOption = Annotated[ReplyTo, typer.Option(help="Each agent hears a reply of its own, or one goes to all.")]
ToleranceOption = Annotated[
    float | None,
    typer.Option(
        help="Certified if every gain is at most this share of the agent's payoff range; default 1e-5 with selection "
        "and a rational user, else (also with --compare) 1e-3."
    ),
]
ReplyRuleOption = Annotated[
    ReplyRule, typer.Option(help="How the user replies: as is best (plans), or by a fixed rule.")
]

ProtocolOption = Annotated[
    str, typer.Option(help="How the user talks to the agents: pooled, selection, conversation, or one of a plugin.")
]
UserOption = Annotated[
    str | None,
    typer.Option(help="Kind of user: rational, quantal, sparsemax, or one of a plugin; default by --precision."),
]
PrecisionOption = Annotated[
    str | None, typer.Option(help="Of the user: a number (quantal), or inf (rational). Default inf.")
]
TiesOption = Annotated[Ties | None, typer.Option(help="How a rational user breaks ties. Default agents.")]
TemperatureOption = Annotated[
    float | None, typer.Option(help="Of the user's choice of an agent in Selection; 0, the default, is the best.")
]
PluginOption = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE.py",
        help="Run this Python file first: the named protocols, users, families, mechanisms and checks that it defines "
        "can be used. May be given several times.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="A parameter of the protocol, the user or the family (section games), or a key of the config; VALUE as in "
        "TOML. May be given several times.",
    ),
]


def settings(given: list[str] | None, sections: tuple[str, ...] = ()) -> dict[str, Any]:
    """{"section.key": value} of all `--set`. Raises `ValueError` that names the one that is wrong.

    sections: those there are, any if none are given.
    """
    found = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        name = name.strip()
        parts = name.split(".")
        if not equals or (len(parts) != 2 and name not in TOP) or not all(parts):
            raise ValueError(f"--set: expected SECTION.KEY=VALUE, got {shown(text)}")
        if sections and parts[0] not in sections:
            raise ValueError(f"--set: {shown(name)}: expected a section of {', '.join(sections)}")
        try:
            found[name] = tomllib.loads(f"value = {value}")["value"]
        except (ValueError, RecursionError):
            found[name] = value.strip()  # a word needs no quotes
    return found


def section(changes: dict[str, Any], name: str) -> dict[str, Any]:
    """{key: value} of one section."""
    return {key.partition(".")[2]: value for key, value in changes.items() if key.startswith(f"{name}.")}


class Offset(enum.StrEnum):
    none = "none"
    constant = "constant"
    per_state = "per_state"


class Norm(enum.StrEnum):
    l2 = "l2"
    sup = "sup"


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


class ProgressBar:
    """A tqdm bar on stderr that appears on terminals only; one bar, renamed and refilled stage by stage."""

    def __init__(self, unit: str = "game") -> None:
        self._unit = unit
        self._bar: tqdm | None = None
        self._what = ""

    def __enter__(self) -> Callable[[str, int, int], None]:
        return self._tell

    def __exit__(self, *_) -> None:
        if self._bar is not None:
            self._bar.close()

    def _tell(self, what: str, done: int, total: int) -> None:
        if not sys.stderr.isatty():
            return
        if self._bar is None:
            self._bar = tqdm(total=total, file=sys.stderr, leave=False, unit=self._unit, dynamic_ncols=True)
        if what != self._what:
            self._what = what
            self._bar.set_description(what, refresh=False)
            self._bar.reset(total)
        self._bar.update(done - self._bar.n)


def tell_fallbacks(count: int, of: int) -> None:
    """The line on answers of the batched solver that were not proved, if there are any."""
    if count:
        print(f"{count} of {of} done again one by one: an answer of the batched solver failed its check.")
