"""Arrays in .npz archives: never pickled; declared sizes are checked against the memory before anything is unpacked."""

from __future__ import annotations

import contextlib
import io
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from emalign_jax.internal import memory
from emalign_jax.internal.arguments import shortened
from emalign_jax.internal.files import atomic, check_input

# Memory that checking and using the arrays takes, in multiples of their size.
COPIES = 4
# An archive is refused if it unpacks to more bytes than LARGE, and to more than DENSE times its own size.
LARGE, DENSE = 10**9, 100
# Exceptions of zipfile and zlib for damaged files; RuntimeError if a flipped bit asks for a password.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, struct.error, RuntimeError)


def save_arrays(path: str | os.PathLike, arrays: dict[str, np.ndarray]) -> None:
    """Write an .npz atomically."""
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def packed(**arrays: Any) -> bytes:
    """An .npz of arrays, for parts and other processes."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def unpacked(data: bytes, *names: str) -> dict[str, np.ndarray]:
    """The arrays of `packed`; names: these alone."""
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name] for name in names or archive}


def read_arrays(
    path,
    required: tuple[str, ...] | None = None,
    optional: tuple[str, ...] = (),
    check: Callable[[dict[str, np.ndarray]], Any] = lambda declared: None,
) -> dict[str, np.ndarray]:
    """The named arrays of an .npz, all with required=None. Errors as in `load_games`.

    check: a function that raises `ValueError` for wrong types and shapes. It is called before anything is unpacked,
        with zeros of the declared types and shapes (numbers as float64), which take no memory.
    """
    path = Path(path)
    check_input(path, "an .npz file")
    try:
        with open(path, "rb") as file:  # NumPy would not close a damaged file
            if file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX:
                raise ValueError(f"{path}: expected an .npz archive, got a single .npy array")
            file.seek(0)
            archive: Any = np.load(file, allow_pickle=False)
            required = tuple(archive.files) if required is None else required
            for name in required:
                if name not in archive:
                    found = shortened(", ".join(archive.files[:12])) or "nothing"
                    raise ValueError(f"{path}: {name}: not in the file, which holds {found}")
            names = (*required, *(name for name in optional if name in archive))
            declared = {name: _declared(path, archive.zip, name) for name in names}
            try:
                check(declared)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
            _check_sizes(path, names, [archive.zip.getinfo(f"{name}.npy").file_size for name in names])
            return {name: _array(path, archive.zip, name) for name in names}
    except _DAMAGE as error:
        if isinstance(error, PermissionError):
            raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
        raise ValueError(f"{path}: truncated or not an .npz file") from None
    except ValueError as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: not an .npz archive of plain arrays (pickled files are refused)") from None


def _declared(path: Path, archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Zeros of the type and shape in an array's header, which must agree with the size in the archive."""
    heads = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        entry = archive.getinfo(f"{name}.npy")
        with archive.open(entry) as file:
            shape, _, dtype = heads[np.lib.format.read_magic(file)](file)
            held = math.prod(shape) * dtype.itemsize
            right = min(shape, default=0) >= 0 and entry.file_size == file.tell() + held
    except Exception:  # the header is parsed as Python, which may raise anything for a damaged one
        right, shape, dtype = False, (), np.dtype(float)
    if dtype.hasobject:
        raise ValueError(f"{path}: {name}: holds pickled objects, expected a plain array")
    if not right:
        raise ValueError(f"{path}: {name}: cannot be read, the file is damaged")
    with contextlib.suppress(ValueError):  # a shape too large for NumPy, of items of 0 bytes
        return np.broadcast_to(np.zeros((), float if dtype.kind in "fiub" else dtype), shape)
    raise ValueError(f"{path}: {name}: expected numbers, got {dtype} of shape {list(shape)}")


def _check_sizes(path: Path, names: tuple[str, ...], sizes: list[int]) -> None:
    total, own = sum(sizes), path.stat().st_size
    largest = names[int(np.argmax(sizes))] if names else ""
    if total > LARGE and total > DENSE * own:
        raise ValueError(
            f"{path}: {largest}: unpacks to {memory.size(total)} from a file of {memory.size(own)}, more than {DENSE} "
            "times as much, and is not unpacked; if that is meant, save it with numpy.savez, uncompressed"
        )
    memory.require(COPIES * total, f"{path}: {largest}: an archive of {memory.size(total)}")


def _array(path: Path, archive: zipfile.ZipFile, name: str) -> np.ndarray:
    try:
        with archive.open(f"{name}.npy") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except ValueError:
        raise ValueError(f"{path}: {name}: cannot be read, the file is damaged") from None
