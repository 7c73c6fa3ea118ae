"""Options that commands share."""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable
from typing import Annotated

import typer
from tqdm import tqdm

from emalign_jax.experiments.words import ReplyRule, ReplyTo
from emalign_jax.internal.arguments import integer, shown

RoundsOption = Annotated[
    int | None, typer.Option(help="Rounds R of messages; default 2 in a conversation. With selection: after she chose.")
]
RepliesOption = Annotated[int | None, typer.Option(help="Replies Q she has after each round but the last; default 2.")]
CompareOption = Annotated[
    int | None, typer.Option(help="With selection: how many agents, drawn at random, she compares; default all.")
]
ReplyToOption = Annotated[ReplyTo, typer.Option(help="Each agent hears a reply of his own, or one goes to all.")]
ToleranceOption = Annotated[
    float | None,
    typer.Option(
        help="Certified if every gain is at most this share of the agent's payoff range; default 1e-5 with selection "
        "and a rational user, else (also with --compare) 1e-3."
    ),
]
ReplyRuleOption = Annotated[
    ReplyRule, typer.Option(help="How she replies: as she likes best (plans), or by a fixed rule.")
]


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
