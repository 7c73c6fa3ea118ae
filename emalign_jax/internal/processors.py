"""The number of parallel workers of a machine: one for each core, or for each device."""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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


def side_by_side() -> int:
    """How many jobs that are half Python's are worth while at once: two, as Python itself uses one core; on an
    accelerator, or with one core, one."""
    return min(2, cores()) if jax.default_backend() == "cpu" else 1


def each(call: Callable[[Item], Found], items: Sequence[Item]) -> list[Found]:
    """[call(item) for item in items], on a CPU with one thread for each core.

    jax's settings are per thread, so `call` must enter its contexts itself. An error is raised when the running calls
    have ended; calls that have not begun are cancelled.
    """
    threads = cores() if jax.default_backend() == "cpu" else 1
    return [found for _, found in as_done(call, items, threads)]


def as_done(
    call: Callable[[Item], Found], items: Sequence[Item], threads: int, stop: Callable[[], object] = lambda: None
) -> Iterator[tuple[Item, Found]]:
    """(item, call(item)) for each item in turn, so many at a time. stop: called where this ends early, so that calls
    that are running end too."""
    if min(threads, len(items)) <= 1:
        yield from ((item, call(item)) for item in items)
        return
    with ThreadPoolExecutor(threads, "each") as pool:
        tasks = [pool.submit(call, item) for item in items]
        try:
            for n, item in enumerate(items):
                yield item, tasks[n].result()
                tasks[n] = Future()  # its result is forgotten here
        except BaseException:
            stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def like_here(call: Callable[[Item], Found]) -> Callable[[Item], Found]:
    """`call` for other threads, with the settings of jax and the variables of context of this one."""
    config: Any = jax.config
    x64, device, promotion = config.jax_enable_x64, config.jax_default_device, config.jax_numpy_dtype_promotion
    context = contextvars.copy_context()

    def within(item: Item) -> Found:
        with jax.enable_x64(x64), jax.default_device(device), jax.numpy_dtype_promotion(promotion):
            return context.copy().run(call, item)

    return within


def stoppable(tell: Callable[..., object] | None) -> tuple[Callable[[], None], Callable[..., None]]:
    """(stop, what passes on to `tell`, by one thread at a time, and after `stop` ends the thread that calls it)."""
    stopped, lock = threading.Event(), threading.Lock()

    def telling(*told: Any) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        if tell is not None:
            with lock:
                tell(*told)

    return stopped.set, telling
