"""What passes between the host and the device, in as few round trips as possible, and a count of it."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass
class Traffic:
    """What has passed since `counted` began, by all threads.

    programs: calls of each compiled program that `internal.xla` makes
    sent:     arrays of the host handed to the device, with programs or by `send`
    sent_bytes, fetched_bytes: their size, and that of results
    trips:    how often the host waited for results of the device (`fetch`)
    """

    programs: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    sent: int = 0
    sent_bytes: int = 0
    trips: int = 0
    fetched_bytes: int = 0

    def send(self, tree: Any) -> None:
        arrays = [x for x in jax.tree.leaves(tree) if isinstance(x, np.ndarray)]
        self.sent += len(arrays)
        self.sent_bytes += sum(x.nbytes for x in arrays)


_counting: list[Traffic] = []


@contextlib.contextmanager
def counted() -> Iterator[Traffic]:
    """Count what passes inside the context."""
    traffic = Traffic()
    _counting.append(traffic)
    try:
        yield traffic
    finally:
        _counting.remove(traffic)


def send(tree: Any) -> Any:
    """`tree` on the device: arrays that several programs use are to be sent once."""
    for traffic in _counting:
        traffic.send(tree)
    return jax.device_put(tree)


def fetch(tree: Any) -> Any:
    """`tree` as NumPy arrays. All copies begin before the first is waited for, so that this is one round trip; arrays
    of the host are left as they are."""
    held = [x for x in jax.tree.leaves(tree) if isinstance(x, jax.Array)] if _counting else []
    for traffic in _counting:
        traffic.trips += bool(held)
        traffic.fetched_bytes += sum(x.nbytes for x in held)
    return jax.device_get(tree)


def noted(fun: Callable[..., Any], program: Callable[..., Any]) -> Callable[..., Any]:
    """`program`, compiled from `fun`, with a note of each call."""

    @functools.wraps(fun)
    def call(*args, **kwargs):
        for traffic in _counting:
            traffic.programs[fun.__name__] += 1
            traffic.send((args, kwargs))
        return program(*args, **kwargs)

    return call
