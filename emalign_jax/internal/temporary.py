"""Temporary files and directories beside the path that they are made for. They are removed when the process ends; those
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
import shutil
from collections.abc import Iterator
from pathlib import Path

from emalign_jax.internal import ending

try:
    import fcntl
except ImportError:  # without these locks no leftovers are recognised, so none are removed
    fcntl = None

HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
NAMES = re.compile(rf"\.(.+)\.emalign-{HOST}-[0-9a-f]{{8}}", re.DOTALL)


def name(path: Path, token: str, host: str = HOST) -> Path:
    """The name of the temporary file for `path`. token: eight hexadecimal digits."""
    return path.with_name(f".{path.name}.emalign-{host}-{token}")


@contextlib.contextmanager
def beside(path: Path, directory: bool = False) -> Iterator[Path]:
    """A new temporary file or directory for `path`, in its folder. Raises `OSError` if none can be made."""
    with contextlib.ExitStack() as locks, contextlib.ExitStack() as stack:
        lock = None
        while lock is None:
            made = name(path.absolute(), secrets.token_hex(4))
            stack.enter_context(
                ending.cleanup(functools.partial(_discard, made, path))
            )  # registered before the file exists
            if directory:
                made.mkdir()
            else:
                made.touch(exist_ok=False)
            lock = hold(made)
        locks.callback(os.close, lock)
        yield made


def hold(path: Path, shared: bool = False) -> int | None:
    """A descriptor that locks `path` until it is closed; None if another process has just removed `path`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    if locked(descriptor, shared) is False or not path.exists():
        os.close(descriptor)
        return None
    return descriptor


def clear(folder: Path) -> None:
    """Remove the temporary files in the folder that are left over from processes of this host."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            if found := NAMES.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    _clear(Path(entry.path), folder / found[1])


def _clear(left: Path, becomes: Path) -> None:
    descriptor = os.open(left, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not locked(descriptor):
            return
        _discard(left, becomes)
    finally:
        os.close(descriptor)


def locked(descriptor: int, shared: bool = False) -> bool | None:
    """Take the lock: True if it was free, False if it is held, None if the file system has no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _discard(made: Path, becomes: Path) -> None:
    """Remove `made`. If the process ended after it moved `becomes` into `made`, before it put the new directory in its
    place, move it back first."""
    if (made / becomes.name).is_dir() and not os.path.lexists(becomes):
        os.replace(made / becomes.name, becomes)
    _remove(made)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
