"""What the tests of experiments/engine.py have computed by workers, who import it from here."""

import os
import signal
import sys
import time
from pathlib import Path

import jax.numpy as jnp


def square(number: int) -> int:
    return number * number


def killed(folder: str, number: int, times: int) -> int:
    """The square, but the first so many times this process is killed over it."""
    for attempt in range(times):
        try:
            os.close(os.open(Path(folder, f"{number}-{attempt}"), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def refused(number: int) -> int:
    if number == 2:
        raise ValueError("count: expected another number")
    return number


class Unsendable(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


def unsendable() -> None:
    raise Unsendable("cannot", "be sent")


def surroundings() -> dict:
    """What a worker finds: the float type, variables, whether programs are kept, its process and parent."""
    import jax

    return {
        "float": str(jnp.ones(()).dtype),
        "variables": {name: os.environ.get(name) for name in ("PJRT_NPROC", "OMP_NUM_THREADS")},
        "cache": jax.config.jax_compilation_cache_dir,
        "process": os.getpid(),
    }


def plugged(name: str) -> tuple[dict[str, str], int]:
    """Digests of the plugins that the worker has, and what one of them computes."""
    from emalign_jax.internal import plugins

    return plugins.sources().digests, sys.modules[name].answer()


def faulty(name: str) -> None:
    sys.modules[name].fault()


def begun(folder: str) -> None:
    """Says which process this is, and then takes a day."""
    Path(folder, f"begun-{os.getpid()}").touch()
    time.sleep(86400)
