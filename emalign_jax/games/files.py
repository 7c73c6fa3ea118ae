"""Games and schemes on disk (.npz, never pickled). Files are written whole or not at all.

Batches of games of different numbers of agents share a file: short games are padded with NaN along K, and
an array `agents` says how many each has. `load_games(path, agents=K)` takes those with K agents.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from emalign_jax.games.game import Game, as_float_array, faults
from emalign_jax.internal import memory, temporary
from emalign_jax.internal.validation import checked

GAME_FIELDS = ("prior", "user_utility", "agent_utilities")
COPIES = 4  # of what a file holds, that are needed to check and use it
TEXT_COPIES = 15  # of a table in text
MOST_COLUMNS = 10_000  # of a table
LARGE, DENSE = 10**9, 100  # bytes, and as a multiple of the file's own, beyond which an archive is taken for a bomb
# what zipfile and zlib raise on damage; RuntimeError where a flipped bit asks for a password or an unknown method
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, struct.error, RuntimeError)


def load_games(path: str | os.PathLike, *, agents: int | None = None) -> Game:
    """Read games from an .npz with `prior`, `user_utility`, `agent_utilities`.

    In a batch with some malformed games those stay, for `solve` and `certify` to mark; a file in which
    every game is malformed is refused. agents: only the games of K agents, from a file of several sizes.
    Raises `FileNotFoundError`, or `ValueError` naming the file, the field and the rule.
    """
    arrays = read_arrays(path, GAME_FIELDS, optional=("agents",))
    fields = [arrays[name] for name in GAME_FIELDS]
    if "agents" in arrays:
        shape = fields[2].shape
        games = tuple(field.shape[0] if field.ndim else 0 for field in fields)
        counts = _counts(path, arrays["agents"], games, shape[1] if len(shape) > 1 else 0)
        rows, K = _rows(path, counts, agents)
        fields = [field[rows] for field in fields]
        fields[2] = fields[2][:, :K]
    try:
        games = Game(*fields, check="shapes")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if "agents" not in arrays and agents not in (None, games.agents):
        raise ValueError(f"{path}: agents: asked for games of {agents} agents, the file has {games.agents}")
    wrong = faults(games)
    if wrong.size == 0:
        raise ValueError(f"{path}: prior: expected at least one game, got an empty batch")
    if (wrong != "").all():
        raise ValueError(
            f"{path}: {wrong.ravel()[0]}" + (f" (all {wrong.size} games are malformed)" if wrong.ndim else "")
        )
    return games


def save_games(path: str | os.PathLike, games: Game) -> None:
    """Write games to an .npz, atomically. Raises `ValueError` for an unwritable place."""
    (games,) = checked(games=games)
    save_arrays(path, {name: np.asarray(getattr(games, name)) for name in GAME_FIELDS})


def load_schemes(path: str | os.PathLike, *, agents: int | None = None) -> np.ndarray:
    """Read `schemes` [..., K, XB, M] from an .npz. Errors as in `load_games`."""
    arrays = read_arrays(path, ("schemes",), optional=("agents",))
    schemes = arrays["schemes"]
    if schemes.dtype.kind not in "fiub":
        raise ValueError(f"{path}: schemes: expected real numbers, got dtype {schemes.dtype}")
    if schemes.ndim < 3:
        raise ValueError(f"{path}: schemes: expected shape [..., K, XB, M], got {list(schemes.shape)}")
    if "agents" in arrays:
        games = schemes.shape[-4:-3] or (0,)
        rows, K = _rows(path, _counts(path, arrays["agents"], games, schemes.shape[-3]), agents)
        schemes = np.take(schemes, rows, axis=-4)[..., :K, :, :]
    return schemes


def save_schemes(path: str | os.PathLike, schemes) -> None:
    """Write schemes to an .npz, atomically."""
    (schemes,) = checked(schemes=schemes)
    save_arrays(path, {"schemes": np.asarray(as_float_array("schemes", schemes))})


def sizes(path: str | os.PathLike) -> list[int | None]:
    """The numbers of agents in a file of several sizes; [None] for a plain file."""
    arrays = read_arrays(path, (), optional=("agents",))
    return [int(k) for k in np.unique(_counts(path, arrays["agents"]))] if "agents" in arrays else [None]


def pad_agents(array: np.ndarray, agents: int, axis: int) -> np.ndarray:
    """With NaN for the agents along `axis` that are not there, as files of several numbers of agents hold them."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, agents - array.shape[axis])
    return np.pad(array.astype(float), widths, constant_values=np.nan)


def save_arrays(path: str | os.PathLike, arrays: dict[str, np.ndarray]) -> None:
    """Write an .npz atomically."""
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


@contextlib.contextmanager
def atomic(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place if the block ends well, and vanishes if not."""
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
        with open(made, "rb") as file:
            os.fsync(file.fileno())
        made.chmod(0o666 & ~umask())
        try:
            os.replace(made, path)
        except OSError as error:
            raise ValueError(f"{path}: cannot be written: {error.strerror}") from None


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


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_arrays(path, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """The named arrays of an .npz, once their declared sizes are known to fit. Errors as in `load_games`."""
    path = Path(path)
    check_input(path, "an .npz file")
    try:
        with open(path, "rb") as file:  # numpy leaves a damaged file open if it opens it
            if file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX:
                raise ValueError(f"{path}: expected an .npz archive, got a single .npy array")
            file.seek(0)
            archive: Any = np.load(file, allow_pickle=False)
            for name in required:
                if name not in archive:
                    found = ", ".join(archive.files[:12]) or "nothing"
                    raise ValueError(f"{path}: {name}: not in the file, which holds {found}")
            names = (*required, *(name for name in optional if name in archive))
            sizes = [_declared(path, archive.zip, name) for name in names]
            _check_sizes(path, names, sizes)
            return {name: _array(path, archive.zip, name) for name in names}
    except _DAMAGE as error:
        if isinstance(error, PermissionError):
            raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
        raise ValueError(f"{path}: truncated or not an .npz file") from None
    except ValueError as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: not an .npz archive of plain arrays (pickled files are refused)") from None


def _declared(path: Path, archive: zipfile.ZipFile, name: str) -> int:
    """Bytes of an array by its header, which must be those that the archive says it holds."""
    heads = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        entry = archive.getinfo(f"{name}.npy")
        with archive.open(entry) as file:
            shape, _, dtype = heads[np.lib.format.read_magic(file)](file)
            held = math.prod(shape) * dtype.itemsize
            right = min(shape, default=0) >= 0 and entry.file_size == file.tell() + held
    except Exception:  # the header is parsed as Python, by which a broken one may end in any error
        right, held, dtype = False, 0, np.dtype(float)
    if dtype.hasobject:
        raise ValueError(f"{path}: {name}: holds pickled objects, expected a plain array")
    if not right:
        raise ValueError(f"{path}: {name}: cannot be read, the file is damaged")
    return held


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


def check_text(path: Path) -> None:
    """Raise `ValueError` where a table in text, by its size, would not fit into memory."""
    bytes_there = path.stat().st_size
    memory.require(TEXT_COPIES * bytes_there, f"{path}: a table of {memory.size(bytes_there)}")


def _counts(path, counts: np.ndarray, games: tuple[int, ...] = (), most: int | None = None) -> np.ndarray:
    """`counts` if it says for each of `games` games how many of the `most` agents are its own."""
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or any(n != len(counts) for n in games):
        held = f"; the arrays hold {', '.join(map(str, games))} games" if games else ""
        raise ValueError(
            f"{path}: agents: expected one integer a game, got {counts.dtype} of shape {list(counts.shape)}{held}"
        )
    if not len(counts):
        raise ValueError(f"{path}: agents: expected at least one game, got none")
    if not (counts.min() >= 1 and (most is None or counts.max() <= most)):
        raise ValueError(f"{path}: agents: expected numbers >= 1 and <= K, got {counts.min()} to {counts.max()}")
    return counts


def _rows(path, counts: np.ndarray, agents: int | None) -> tuple[np.ndarray, int]:
    present = [int(k) for k in np.unique(counts)]
    if agents is None and len(present) > 1:
        raise ValueError(f"{path}: agents: holds games of {', '.join(map(str, present))} agents, say which")
    wanted = present[0] if agents is None else agents
    if wanted not in present:
        raise ValueError(
            f"{path}: agents: asked for games of {agents} agents, the file has {', '.join(map(str, present))}"
        )
    return np.flatnonzero(counts == wanted), wanted
