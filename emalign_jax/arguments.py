"""Checks of plain arguments: one clear `ValueError` that names the argument and the rule."""

from __future__ import annotations

import numbers
import operator
import reprlib
from typing import Any


def integer(name: str, value: Any, least: int) -> int:
    """`value` as an int, at least `least`."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name}: expected an integer >= {least}, got {shown(value)}") from None
    if number < least:
        raise ValueError(f"{name}: expected an integer >= {least}, got {value}")
    return number


def shown(value: Any) -> str:
    """Short and on one line: a word or a number itself, of anything else what it is."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, (str, numbers.Number)):
        return reprlib.repr(value)
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
