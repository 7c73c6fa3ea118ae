"""How much of a machine works at once: its cores, or its devices."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax

Item = TypeVar("Item")
Found = TypeVar("Found")


def workers(devices: list[Any]) -> int:
    """A CPU is one device with many cores, and small arrays keep only one of them busy."""
    if len(devices) > 1 or devices[0].platform != "cpu":
        return len(devices)
    return cores()


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each(call: Callable[[Item], Found], items: Sequence[Item]) -> list[Found]:
    """[call(item) for item in items], on a CPU in a thread a core. jax's settings are a thread's own: `call` enters its
    contexts itself. The first error comes out when what runs has ended; what has not begun is left."""
    team = min(cores() if jax.default_backend() == "cpu" else 1, len(items))
    if team <= 1:
        return [call(item) for item in items]
    with ThreadPoolExecutor(team, "each") as pool:
        tasks = [pool.submit(call, item) for item in items]
        try:
            return [task.result() for task in tasks]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
