"""Many games through few lanes: fixed tiles of games, a queue, and one worker a core or a device.

A tile is as wide as caches (on an accelerator, memory) allow, so only a handful of sizes is ever compiled and memory
does not grow with the number of games. A lane whose game is done takes the next one: nobody waits for a slow game.
One array sharded over the devices (`jax.sharding`) would be one program, in which all wait for the slowest at every
call; games need nothing from each other, so each device runs a program of its own and takes tiles from the queue.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from emalign_jax.internal.processors import workers

SMALLEST = 16  # lanes; tiles have 16, 64, 256, ... of them, on a CPU any power of two
CACHED_CELLS = 2**16  # numbers in the largest tensor of a tile on a CPU: a quarter of a megabyte in float32
MOST_LANES = 256  # on a CPU
MOST_CELLS = 2**26  # and where one game alone does not fit into a cache, all workers together
BYTES_A_CELL = 64  # of an accelerator's memory: float32, and a dozen tensors alive


def bucket(count: int) -> int:
    """The smallest tile with so many lanes."""
    size = SMALLEST
    while size < count:
        size *= 4
    return size


def tile_width(games: int, cells: int, devices: list[Any]) -> int:
    """Lanes of a tile. cells: numbers in one game's largest tensor.

    On a CPU it does not depend on the number of games: another width is another program, which rounds otherwise, and
    in games with many equilibria that may end in another one. So a game ends the same in any batch.
    """
    team = workers(devices)
    if devices[0].platform == "cpu":
        fit = max(min(CACHED_CELLS // cells, MOST_LANES), min(SMALLEST, MOST_CELLS // (cells * team)), 1)
    else:
        fit = max(1, int(_free_bytes(devices[0])) // (BYTES_A_CELL * cells))
    if fit < SMALLEST:
        return fit
    if devices[0].platform == "cpu":
        return 1 << (fit.bit_length() - 1)
    widest = SMALLEST
    while 4 * widest <= fit:
        widest *= 4
    return min(widest, bucket(-(-games // team)))


def _free_bytes(device) -> int:
    stats = device.memory_stats() or {}
    return stats.get("bytes_limit", 2**33) - stats.get("bytes_in_use", 0)


class Queue:
    """Numbers of games, handed out in order; safe between threads."""

    def __init__(self, games: int):
        self._next, self._games = 0, games
        self._lock = threading.Lock()
        self.stopped = False

    def take(self, count: int) -> Int[np.ndarray, "taken"]:
        with self._lock:
            taken = np.arange(self._next, min(self._next + count, self._games))
            self._next += len(taken)
            return taken

    def stop(self) -> None:
        """Nothing more is handed out, and workers leave at their next look."""
        with self._lock:
            self._games, self.stopped = self._next, True


def run(work: Callable[[Queue], None], games: int, width: int, devices: list[Any], context) -> None:
    """work(queue) once a worker, each in a thread of its own with its device as default, until the queue is empty.

    context: a context manager's factory, entered in each thread (jax's settings are a thread's own).
    """
    queue = Queue(games)

    def one(device):
        try:
            with context(), jax.default_device(device) if len(devices) > 1 else contextlib.nullcontext():
                work(queue)
        except BaseException:
            queue.stop()  # the others stop soon, and the error comes out
            raise

    team = min(workers(devices), -(-games // width))
    if team <= 1:
        return one(devices[0])
    with ThreadPoolExecutor(team, "play") as pool:
        tasks = [pool.submit(one, devices[n % len(devices)]) for n in range(team)]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            queue.stop()
            raise
