"""Options that commands share, and how their words become modules."""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable

from tqdm import tqdm

from emalign_jax.protocols import AbstractProtocol, Pooled, Selection
from emalign_jax.users import AbstractUser, QuantalUser, RationalUser


class Protocol(enum.StrEnum):
    pooled = "pooled"
    selection = "selection"


class Ties(enum.StrEnum):
    agents = "agents"
    lowest = "lowest"
    uniform = "uniform"


def make_protocol(protocol: Protocol, temperature: float) -> AbstractProtocol:
    if protocol is Protocol.pooled:
        if temperature != 0:
            raise ValueError("--temperature: belongs to --protocol selection; leave it out with pooled")
        return Pooled()
    return Selection(temperature)


def make_user(precision: str, ties: Ties) -> AbstractUser:
    """ "inf" is a rational user, a number > 0 a quantal one."""
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

    def __init__(self) -> None:
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
            self._bar = tqdm(total=total, file=sys.stderr, leave=False, unit="game", dynamic_ncols=True)
        if what != self._what:
            self._what = what
            self._bar.set_description(what, refresh=False)
            self._bar.reset(total)
        self._bar.update(done - self._bar.n)
