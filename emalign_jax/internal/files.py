"""Files written whole or not at all, and checks of what may be read or written, before any work."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from emalign_jax.internal import memory, temporary

TEXT_COPIES = 15  # of a table in text
MOST_COLUMNS = 10_000  # of a table


@contextlib.contextmanager
def atomic(path: str | os.PathLike, replace: bool = True) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place if the block ends well, and vanishes if not.

    Raises `FileExistsError` at the end where, without `replace`, there is a file by then.
    """
    path = Path(path)
    if _occupied(path):  # the rename would put a file in the place of a device for all programs
        raise ValueError(f"{path}: cannot be written: expected a file, there is something else of that name")
    with contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(temporary.beside(path))
        except OSError as error:
            raise ValueError(f"{path}: cannot be written: {error.strerror}") from None
        try:
            yield made
        except OSError as error:
            if error.filename is None and error.strerror:  # what fails in mid-file does not say in which
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
    """Give a file its name unless another has it."""
    try:
        os.link(made, path)
    except OSError as error:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        os.replace(made, path)  # a file system without hard links


def sync(path: Path) -> None:
    """Have what a file holds, or the names in a directory, written to the disk itself."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # a directory that may be changed but not listed
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # which some file systems say of directories
            raise
    finally:
        os.close(descriptor)


def is_regular(path: Path) -> bool:
    """Whether a file is there itself, not what leads to one."""
    return path.is_file() and not path.is_symlink()


def _occupied(path: Path) -> bool:
    """Whether a directory, a device, a pipe or a link to nothing is there, which no file may replace."""
    return os.path.lexists(path) and not path.is_file()


def check_output(path: Path, option: str, force: bool) -> None:
    """Raise `ValueError`, before any work, where the file cannot be written or (without `force`) is there already."""
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


def check_input(path: Path, what: str) -> None:
    """Raise `FileNotFoundError`, or `ValueError`, for what is no file that can be read to its end.

    what: what is expected, such as "an .npz file"
    """
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read: {getattr(error, 'strerror', error)}") from None
    if stat.S_ISDIR(kind):
        raise ValueError(f"{path}: expected {what}, got a directory")
    if not stat.S_ISREG(kind):  # a pipe without a writer is waited for, a device may never end
        raise ValueError(f"{path}: expected {what}, got a pipe, socket or device")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{path}: cannot be read: {os.strerror(errno.EACCES)}")


def check_text(path: Path) -> None:
    """Raise `ValueError` where a table in text, by its size, would not fit into memory."""
    bytes_there = path.stat().st_size
    memory.require(TEXT_COPIES * bytes_there, f"{path}: a table of {memory.size(bytes_there)}")
