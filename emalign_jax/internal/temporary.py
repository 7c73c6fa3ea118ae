"""Files and directories that become what they lie beside, and vanish with the process; if it was killed, with the next.

While its process lives, each is locked by the kernel (flock), so one that another process can lock is dead, whatever
has become of process numbers. Their names hold a digest of the host's name, and only a host's own are judged: in some
shared file systems a lock does not reach the others.
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
except ImportError:  # a system without these locks: nothing is proved dead there, and nothing cleared
    fcntl = None

HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
NAMES = re.compile(rf"\.(.+)\.{HOST}-\w{{8}}", re.DOTALL)


@contextlib.contextmanager
def beside(path: Path, directory: bool = False) -> Iterator[Path]:
    """A new file, or directory, next to `path`. Raises `OSError` where none can be made."""
    with contextlib.ExitStack() as locks, contextlib.ExitStack() as stack:
        lock = None
        while lock is None:
            made = path.parent.absolute() / f".{path.name}.{HOST}-{secrets.token_hex(4)}"
            stack.enter_context(ending.owed(functools.partial(_discard, made, path)))  # before it is there
            if directory:
                made.mkdir(0o700)
            else:
                made.touch(0o600, exist_ok=False)
            lock = hold(made)
        locks.callback(os.close, lock)
        yield made


def hold(path: Path, shared: bool = False) -> int | None:
    """A descriptor that locks what is there until it is closed; None if it has just been taken for dead and cleared."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    if _locked(descriptor, shared) is False or not path.exists():
        os.close(descriptor)
        return None
    return descriptor


def clear(folder: Path) -> None:
    """Remove what processes of this host that are no more have left in the folder."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            if found := NAMES.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    _clear(Path(entry.path), folder / found[1])


def _clear(left: Path, becomes: Path) -> None:
    descriptor = os.open(left, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not _locked(descriptor):
            return
        _discard(left, becomes)
    finally:
        os.close(descriptor)


def _locked(descriptor: int, shared: bool = False) -> bool | None:
    """Whether the lock was free; None where the file system has none."""
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
    """Remove it; what it was to replace goes back, if that was moved into it and nothing new has taken the place."""
    if (made / becomes.name).is_dir() and not os.path.lexists(becomes):
        os.replace(made / becomes.name, becomes)
    _remove(made)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
