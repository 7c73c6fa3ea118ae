"""Options that commands share, and how their words become modules."""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable
from typing import Annotated

import typer
from tqdm import tqdm

from emalign_jax.protocols import AbstractProtocol, Conversation, Pooled, Selection
from emalign_jax.replies import FixedReplies
from emalign_jax.users import AbstractUser, QuantalUser, RationalUser


class Protocol(enum.StrEnum):
    pooled = "pooled"
    selection = "selection"
    conversation = "conversation"


class ReplyTo(enum.StrEnum):
    each = "each"
    all = "all"


class ReplyRule(enum.StrEnum):
    plans = "plans"
    babbling = "babbling"
    truthful = "truthful"
    questions = "questions"


RoundsOption = Annotated[
    int | None, typer.Option(help="Rounds R of messages; default 2 in a conversation. With selection: after she chose.")
]
RepliesOption = Annotated[int | None, typer.Option(help="Replies Q she has after each round but the last; default 2.")]
ReplyToOption = Annotated[ReplyTo, typer.Option(help="Each agent hears a reply of his own, or one goes to all.")]
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


class Ties(enum.StrEnum):
    agents = "agents"
    lowest = "lowest"
    uniform = "uniform"


def make_protocol(
    protocol: Protocol, temperature: float, rounds: int | None, replies: int | None, reply_to: ReplyTo
) -> AbstractProtocol:
    if protocol is not Protocol.selection and temperature != 0:
        raise ValueError(f"--temperature: belongs to --protocol selection; leave it out with {protocol.value}")
    for option, value in (("--rounds", rounds), ("--replies", replies)):
        if value is not None and value < 1:
            raise ValueError(f"{option}: expected an integer >= 1, got {value}")
    if protocol is Protocol.conversation:
        return Conversation(2 if rounds is None else rounds, 2 if replies is None else replies, reply_to.value)
    if protocol is Protocol.pooled:
        if rounds not in (None, 1) or replies is not None:
            raise ValueError("--rounds, --replies: belong to --protocol conversation or selection; pooled is one round")
        return Pooled()
    if rounds in (None, 1):
        if replies is not None:
            raise ValueError("--replies: needs --rounds of 2 or more")
        return Selection(temperature)
    return Selection(temperature, Conversation(rounds, 2 if replies is None else replies, reply_to.value))


def make_user(precision: str, ties: Ties, rule: ReplyRule, protocol: AbstractProtocol) -> AbstractUser:
    """ "inf" is a rational user, a number > 0 a quantal one."""
    acting = _acting(precision, ties)
    if rule is ReplyRule.plans:
        return acting
    if protocol.conversation is None:
        raise ValueError(f"--reply-rule: {rule.value} needs a conversation; take --protocol conversation or --rounds")
    return FixedReplies(rule.value, acting)


def _acting(precision: str, ties: Ties) -> AbstractUser:
    try:
        number = float(precision)
    except ValueError:
        raise ValueError(f"--precision: expected a number > 0 or inf, got {precision!r}") from None
    if number == float("inf"):
        return RationalUser(ties.value)
    if not number > 0:
        raise ValueError(f"--precision: expected a number > 0 or inf, got {precision}")
    return QuantalUser(number)


def integers(option: str, text: str, least: int) -> tuple[int, ...]:
    """ "1,2,3" as integers, each at least `least`."""
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{option}: expected integers separated by commas, got {text!r}") from None
    for value in values:
        if value < least:
            raise ValueError(f"{option}: expected integers >= {least}, got {value}")
    if len(set(values)) < len(values):
        raise ValueError(f"{option}: expected distinct integers, got {text}")
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
