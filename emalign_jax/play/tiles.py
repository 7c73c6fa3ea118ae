"""Many games in tiles of fixed width: a queue of games, and one worker for each core or device.

A tile is as wide as caches (on an accelerator, memory) allow, so that few sizes are compiled and memory does not grow
with the number of games. A lane of a tile whose game is done takes the next game from the queue, so that slow games
delay no others. Devices run separate programs, because games do not depend on each other: with one array sharded over
devices (`jax.sharding`) all would wait for the slowest in every call.
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

# Lanes of the smallest tile. Tiles have 16, 64, 256, ... lanes, on a CPU any power of two.
SMALLEST_TILE = 16
# Limit of the numbers in the largest tensor of a tile on a CPU: a quarter of a megabyte in float32.
CACHED_CELLS = 2**16
# Limit of the lanes of a tile on a CPU.
MOST_LANES = 256
# Limit of the numbers in all workers' largest tensors on a CPU, if one game is larger than CACHED_CELLS.
MOST_CELLS = 2**26
# Memory of an accelerator for each number of the largest tensor: float32, and a dozen tensors alive.
BYTES_A_CELL = 64


def bucket(count: int) -> int:
    """The width of the smallest tile with at least `count` lanes."""
    size = SMALLEST_TILE
    while size < count:
        size *= 4
    return size


def tile_width(games: int, cells: int, devices: list[Any]) -> int:
    """The number of lanes of a tile.

    cells: numbers in one game's largest tensor.

    On a CPU it does not depend on the number of games, so that a game ends in the same equilibrium in any batch: a tile
    of another width is another program, which may round differently.
    """
    threads = workers(devices)
    if devices[0].platform == "cpu":
        fit = max(min(CACHED_CELLS // cells, MOST_LANES), min(SMALLEST_TILE, MOST_CELLS // (cells * threads)), 1)
    else:
        fit = max(1, int(_free_bytes(devices[0])) // (BYTES_A_CELL * cells))
    if fit < SMALLEST_TILE:
        return fit
    if devices[0].platform == "cpu":
        return 1 << (fit.bit_length() - 1)
    widest = SMALLEST_TILE
    while 4 * widest <= fit:
        widest *= 4
    return min(widest, bucket(-(-games // threads)))


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
        """Hand out no more games; workers end at their next check of `stopped`."""
        with self._lock:
            self._games, self.stopped = self._next, True


def run(work: Callable[[Queue], None], games: int, width: int, devices: list[Any], context) -> None:
    """Call work(queue) in one thread for each worker, with its device as default.

    context: a function that returns a context manager, entered in each thread, because jax's settings are per thread.
    """
    queue = Queue(games)

    def one(device):
        try:
            with context(), jax.default_device(device) if len(devices) > 1 else contextlib.nullcontext():
                work(queue)
        except BaseException:
            queue.stop()  # so that the other workers end, and the error is raised below
            raise

    threads = min(workers(devices), -(-games // width))
    if threads <= 1:
        return one(devices[0])
    with ThreadPoolExecutor(threads, "play") as pool:
        tasks = [pool.submit(one, devices[n % len(devices)]) for n in range(threads)]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            queue.stop()
            raise
