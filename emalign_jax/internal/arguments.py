"""Checks of plain arguments. Each raises a `ValueError` of one line that names the argument and the rule."""

from __future__ import annotations

import math
import numbers
import operator
import reprlib
from collections.abc import Callable
from typing import Any

# Limit of integers, because games are numbered in 32 bits.
MOST = 2**31 - 1
# Counts of things too many to make are replaced by this number.
CEILING = 10**30

# Rules for numbers: in words, and as a function.
POSITIVE = "a finite number > 0", lambda x: 0 < x < math.inf
NOT_NEGATIVE = "a finite number >= 0", lambda x: 0 <= x < math.inf
FINITE = "a finite number", math.isfinite
SHARE = "a number in [0, 1]", lambda x: 0 <= x <= 1
BELOW_ONE = "a number in [0, 1)", lambda x: 0 <= x < 1
BETWEEN = "a number between 0 and 1", lambda x: 0 < x < 1


def number(name: str, value: Any, expected: str, holds: Callable[[float], bool]) -> float:
    """`value` as a float, if `holds` is true of it; `expected` says in words what it must be."""
    plain = _plain(value)
    if isinstance(plain, numbers.Real) and not isinstance(plain, bool):
        try:
            found = float(plain)
        except OverflowError:
            found = math.inf
        if holds(found):
            return found
    raise ValueError(f"{name}: expected {expected}, got {shown(plain)}")


def pair(name: str, value: Any) -> tuple[float, float]:
    """Two finite numbers > 0."""
    try:
        first, last = value
        return number(name, first, *POSITIVE), number(name, last, *POSITIVE)
    except (TypeError, ValueError):
        got = value if isinstance(value, tuple) and len(value) == 2 else shown(value)
        raise ValueError(f"{name}: expected two finite numbers > 0 (first, last), got {reprlib.repr(got)}") from None


def choice(name: str, value: Any, words: Any) -> str:
    """`value`, which must be one of `words`."""
    if not isinstance(value, str) or value not in words:
        raise ValueError(f"{name}: expected one of {', '.join(words)}, got {shown(value)}")
    return value


def boolean(name: str, value: Any) -> bool:
    """True or False. Nothing else is converted, because a word such as "no" would count as True."""
    plain = _plain(value)
    if not isinstance(plain, bool):
        raise ValueError(f"{name}: expected True or False, got {shown(plain)}")
    return plain


def function(name: str, value: Any) -> Any:
    """`value`, which must be a function or None."""
    if value is not None and (isinstance(value, type) or not callable(value)):
        raise ValueError(f"{name}: expected a function or None, got {shown(value)}")
    return value


def _plain(value: Any) -> Any:
    """The number in an array without axes; anything else as it is."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item") and not hasattr(value, "mask"):
        try:
            return value.item()
        except Exception:  # a traced array holds no number
            return value
    return value


def integer(name: str, value: Any, least: int, most: int = MOST) -> int:
    """`value` as an int, at least `least` and at most `most`."""
    try:
        plain = _plain(value)
        if isinstance(plain, bool):
            raise TypeError
        found = operator.index(plain)
    except TypeError:
        raise ValueError(f"{name}: expected an integer >= {least}, got {shown(value)}") from None
    if found < least:
        raise ValueError(f"{name}: expected an integer >= {least}, got {shown(found)}")
    if found > most:
        raise ValueError(f"{name}: expected an integer <= {most}, got {shown(found)}")
    return found


def shown(value: Any) -> str:
    """`value` for an error message: words and numbers themselves, shortened; of anything else the type."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, int) and abs(value) >= CEILING:  # it may have thousands of digits
        return "more than 1e30" if value > 0 else "less than -1e30"
    if value is None or isinstance(value, (str, bytes, numbers.Number)):
        return reprlib.repr(value)
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def shortened(text: Any, most: int = 80) -> str:
    """Text from a file or a user for an error message, on one line and at most `most` characters or so."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else line[: most // 2] + " ... " + line[-most // 4 :]


def power(base: int, exponent: int) -> int:
    """base ** exponent, at most CEILING: the digits of a huge number might not fit into memory."""
    if base > 1 and exponent * (base.bit_length() - 1) >= CEILING.bit_length():
        return CEILING
    return min(base**exponent, CEILING)


def subsets(count: int, taken: int) -> int:
    """The number of subsets of `taken` of `count` things, at most CEILING."""
    found = 1
    for n in range(min(taken, count - taken)):
        found = found * (count - n) // (n + 1)
        if found >= CEILING:
            return CEILING
    return found
