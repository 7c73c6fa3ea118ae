"""Checks of plain arguments: one clear `ValueError` that names the argument and the rule."""

from __future__ import annotations

import operator
from typing import Any


def integer(name: str, value: Any, least: int) -> int:
    """`value` as an int, at least `least`."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name}: expected an integer >= {least}, got {value!r}") from None
    if number < least:
        raise ValueError(f"{name}: expected an integer >= {least}, got {value}")
    return number
