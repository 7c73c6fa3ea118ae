"""Checks of plain arguments: one clear `ValueError` that names the argument and the rule."""

from __future__ import annotations

import numbers
import operator
import reprlib
from typing import Any

MOST = 2**31 - 1  # games are numbered in 32 bits, and nothing else is counted beyond
CEILING = 10**30  # of counts of what cannot be made


def integer(name: str, value: Any, least: int, most: int = MOST) -> int:
    """`value` as an int, at least `least` and at most `most`."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name}: expected an integer >= {least}, got {shown(value)}") from None
    if number < least:
        raise ValueError(f"{name}: expected an integer >= {least}, got {shown(number)}")
    if number > most:
        raise ValueError(
            f"{name}: expected an integer <= {most}, got {number if number < CEILING else 'more than 1e30'}"
        )
    return number


def shown(value: Any) -> str:
    """Short and on one line: a word or a number itself, of anything else what it is."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, (str, numbers.Number)):
        return reprlib.repr(value)
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def shortened(text: Any, most: int = 80) -> str:
    """What a file or a user wrote, on one line and short, as messages quote it."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else line[: most // 2] + " ... " + line[-most // 4 :]


def power(base: int, exponent: int) -> int:
    """base ** exponent, but no more than CEILING: the digits of what is far too large would fill the memory."""
    if base > 1 and exponent * (base.bit_length() - 1) >= CEILING.bit_length():
        return CEILING
    return min(base**exponent, CEILING)


def subsets(count: int, taken: int) -> int:
    """Subsets of `taken` of `count` things, but no more than CEILING."""
    found = 1
    for n in range(min(taken, count - taken)):
        found = found * (count - n) // (n + 1)
        if found >= CEILING:
            return CEILING
    return found
