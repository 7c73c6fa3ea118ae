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

# Keys of a config that are in none of its sections.
TOP = ("seed", "title", "block")
# By section, the keys that `search` and `certify` have options for.
OPTIONS = {
    "games": (
        "family", "count", "agents", "states", "actions", "user_features", "agent_features", "user_information",
        "agent_information", "noise", "bias", "alignment", "information_worth",
    ),
    "protocol": ("temperature", "compare", "rounds", "replies", "reply_to", "messages"),
    "user": ("precision", "ties", "reply_rule"),
}  # fmt: skip

RoundsOption = Annotated[
    int | None,
    typer.Option(
        help="Rounds of messages; default 2 with --protocol conversation. With selection: rounds of the conversation "
        "with the picked agent."
    ),
]
RepliesOption = Annotated[
    int | None,
    typer.Option(help="Different replies that the user can give after each round but the last; default 2."),
]
CompareOption = Annotated[
    int | None, typer.Option(help="With selection: how many agents, drawn at random, are compared; default all.")
]
ReplyToOption = Annotated[
    ReplyTo, typer.Option(help="each: every agent gets a reply of its own; all: one reply goes to all.")
]
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
    typer.Option(
        help="Kind of user: rational, quantal, sparsemax (the last two with --precision), or one of a plugin. Default: "
        "rational if --precision is inf, else quantal."
    ),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(help="How precisely the user optimises: a number > 0 (quantal) or inf (rational). Default inf."),
]
TiesOption = Annotated[Ties | None, typer.Option(help="How a rational user breaks ties. Default agents.")]
TemperatureOption = Annotated[
    float | None,
    typer.Option(help="How randomly the user picks an agent in Selection; 0, the default, picks the best."),
]
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
        help="A parameter without an option of its own, such as user.tolerance=1e-6 or protocol.cost=0.1. May be given "
        "several times.",
    ),
]
ChangeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Replace a key of the config; VALUE as in TOML. In a sweep a list is an axis: games.agents=[2,4]. May be "
        "given several times.",
    ),
]


def settings(given: list[str] | None, sections: tuple[str, ...] = ()) -> dict[str, Any]:
    """{"section.key": value} of all `--set`. Raises `ValueError` that names the one that is wrong.

    sections: of a command without a config. There values are single numbers or words, and what has an option of its
        own is not set in this way. If none are given, any section and any value.
    """
    found: dict[str, Any] = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        name = name.strip()
        where, _, key = name.rpartition(".")
        if not equals or not key or not (where or name in TOP):
            raise ValueError(f"--set: expected SECTION.KEY=VALUE, got {shown(text)}")
        if name in found:
            raise ValueError(f"--set: {shown(name)}: given twice")
        found[name] = _value(name, value.strip())
        if sections:
            if where not in sections:
                raise ValueError(f"--set: {shown(name)}: expected a section of {', '.join(sections)}")
            if key in OPTIONS[where]:
                raise ValueError(f"--set: {shown(name)}: has an option of its own, --{key.replace('_', '-')}")
            if not isinstance(found[name], int | float | str):
                raise ValueError(
                    f"--set: {shown(name)}: expected a number, a word, true or false, got {shown(found[name])}"
                )
    return found


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
