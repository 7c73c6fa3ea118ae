"""Temporary files beside the path that they are made for. They are removed when the process ends; those
of a killed process by the next process that writes there.

Each is locked (flock) while its process lives, so one that another process can lock is left over, even if the number of
its process is in use again. Names contain a digest of the host's name, and only those of the same host are removed: in
some shared file systems locks of other hosts cannot be seen.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from emalign_jax.internal import ending

try:
    import fcntl
except ImportError:  # without these locks no leftovers are recognised, so none are removed
    fcntl = None

HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
NAMES = re.compile(rf"\.(.+)\.emalign-{HOST}-[0-9a-f]{{8}}", re.DOTALL)


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A new temporary file for `path`, in its folder. Raises `OSError` if none can be made."""
    with contextlib.ExitStack() as locks, contextlib.ExitStack() as stack:
        lock = None
        while lock is None:
            made = path.absolute().with_name(f".{path.name}.emalign-{HOST}-{secrets.token_hex(4)}")
            remove = functools.partial(made.unlink, missing_ok=True)
            stack.enter_context(ending.cleanup(remove))  # registered before the file exists
            made.touch(exist_ok=False)
            lock = _hold(made)
        locks.callback(os.close, lock)
        yield made


def _hold(path: Path) -> int | None:
    """A descriptor that locks `path` until it is closed; None if another process has just removed `path`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    if _locked(descriptor) is False or not path.exists():
        os.close(descriptor)
        return None
    return descriptor


def clear(folder: Path) -> None:
    """Remove the temporary files in the folder that are left over from processes of this host."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            if NAMES.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    _clear(Path(entry.path))


def _clear(left: Path) -> None:
    descriptor = os.open(left, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if _locked(descriptor):
            left.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool | None:
    """Take the lock: True if it was free, False if it is held, None if the file system has no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
