"""The number of parallel workers of a machine: one for each core, or for each device."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax

Item = TypeVar("Item")
Found = TypeVar("Found")


def workers(devices: list[Any]) -> int:
    """The number of devices; on a CPU, which is one device, the number of cores."""
    if len(devices) > 1 or devices[0].platform != "cpu":
        return len(devices)
    return cores()


def cores() -> int:
    """The number of cores that this process may use, at most `PJRT_NPROC`, the variable that XLA's threads obey too."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = os.environ.get("PJRT_NPROC", "")
    return min(count, int(most)) if most.isdecimal() and int(most) else count


def each(call: Callable[[Item], Found], items: Sequence[Item]) -> list[Found]:
    """[call(item) for item in items], on a CPU with one thread for each core.

    jax's settings are per thread, so `call` must enter its contexts itself. An error is raised when the running calls
    have ended; calls that have not begun are cancelled.
    """
    threads = min(cores() if jax.default_backend() == "cpu" else 1, len(items))
    if threads <= 1:
        return [call(item) for item in items]
    with ThreadPoolExecutor(threads, "each") as pool:
        tasks = [pool.submit(call, item) for item in items]
        try:
            return [task.result() for task in tasks]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
