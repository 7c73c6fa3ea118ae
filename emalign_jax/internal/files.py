"""Files written whole or not at all, and checks of what may be read or written, before any work."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from emalign_jax.internal import memory, temporary

# Memory that reading a table in text takes, in multiples of the size of the file.
TEXT_COPIES = 15
MOST_COLUMNS = 10_000


@contextlib.contextmanager
def atomic(path: str | os.PathLike, replace: bool = True) -> Iterator[Path]:
    """A temporary path in the folder of `path`, which is renamed to `path` if the block ends well, and removed if not.

    Raises `ValueError` if the file cannot be written, `FileExistsError` if without `replace` it exists at the end.
    """
    path = Path(path)
    if _occupied(path):  # the rename would replace a device, for all programs
        raise ValueError(f"{path}: cannot be written: expected a file, there is something else of that name")
    with contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(temporary.beside(path))
        except OSError as error:
            raise ValueError(f"{path}: cannot be written: {error.strerror}") from None
        try:
            yield made
        except OSError as error:
            if error.filename is None and error.strerror:  # errors of a write do not name the file
                raise ValueError(f"{path}: cannot be written: {error.strerror}") from None
            raise
        try:
            sync(made)
            os.replace(made, path) if replace else _link(made, path)
            sync(path.parent)
        except FileExistsError:
            raise
        except OSError as error:
            raise ValueError(f"{path}: cannot be written: {error.strerror}") from None


def _link(made: Path, path: Path) -> None:
    """Rename the file `made` to `path` unless there is a file of that name."""
    try:
        os.link(made, path)
    except OSError as error:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        os.replace(made, path)  # the file system has no hard links


def sync(path: Path) -> None:
    """Write the contents of a file, or the names in a directory, through to the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # a directory that may be written but not read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot sync directories
            raise
    finally:
        os.close(descriptor)


def is_regular(path: Path) -> bool:
    """Whether `path` is a file and no link to one."""
    return path.is_file() and not path.is_symlink()


def _occupied(path: Path) -> bool:
    """Whether `path` is a directory, a device, a pipe or a broken link, which no file may replace."""
    return os.path.lexists(path) and not path.is_file()


def check_output(path: Path, option: str, force: bool) -> None:
    """Raise `ValueError`, before any work, if the file cannot be written or (without `force`) exists already."""
    if _occupied(path):
        raise ValueError(f"{path}: {option}: expected a file, there is something else of that name")
    if os.path.lexists(path) and not force:
        raise ValueError(f"{path}: {option}: is there already; choose another name or pass --force to replace it")
    try:
        temporary.clear(path.parent)
        with temporary.beside(path):
            pass
    except OSError as error:
        raise ValueError(f"{path}: {option}: cannot be written: {error.strerror}") from None


def check_input(path: Path, what: str, most: int | None = None) -> None:
    """Raise `FileNotFoundError` or `ValueError` unless `path` is a regular file that can be read.

    what: the kind of file for the message, such as "an .npz file"; most: bytes that it may have
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read: {getattr(error, 'strerror', error)}") from None
    if stat.S_ISDIR(found.st_mode):
        raise ValueError(f"{path}: expected {what}, got a directory")
    if not stat.S_ISREG(found.st_mode):  # opening a pipe may block, reading a device may never end
        raise ValueError(f"{path}: expected {what}, got a pipe, socket or device")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{path}: cannot be read: {os.strerror(errno.EACCES)}")
    if most is not None and found.st_size > most:
        raise ValueError(f"{path}: expected {what} of at most {most} bytes, got {found.st_size}")


def check_text(path: Path) -> None:
    """Raise `ValueError` if reading a table in text would take more memory than is free."""
    size = path.stat().st_size
    memory.require(TEXT_COPIES * size, f"{path}: a table of {memory.size(size)}")
