"""The directory of a run of any kind: whose it is, who is at work there, and what in it belongs to the run.

A directory is a run's if its manifest.json is a regular file with our schema and the run's kind. `files` there names
what the run has written or may write; that, its parts and its lock are the run's, and so are temporary names. All else
is somebody else's: it is never touched, and a directory that holds some is not replaced.

The manifest is written first, which reserves the name, and says `running`; it is written last, and says `done`. One
process at a time is at work: the lock is the kernel's (flock), and goes with the process however that ends.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from emalign_jax.experiments import manifests
from emalign_jax.experiments.manifests import MANIFEST, SCHEMA
from emalign_jax.internal import ending, memory, temporary
from emalign_jax.internal.arguments import shortened
from emalign_jax.internal.files import atomic, is_regular, sync

PACKAGES = ("jax", "jaxlib", "equinox", "optax", "numpy", "highspy")
LOCK, PARTS = ".emalign-lock", "parts"
LISTED = 5  # differences between two manifests that are named
PART = re.compile(r"[0-9a-f]{16}-\d{6,}-[0-9a-f]{16}\.parquet")


class Kind(NamedTuple):
    """name: in manifests; files: names that a run may write; parts: whether blocks of it lie in parts/.

    resumed: the same command goes on where it stopped, and --force starts anew at once; what other kinds replace is
    kept until what replaces it is whole.
    """

    name: str
    files: tuple[str, ...]
    parts: bool = False
    resumed: bool = False


class Taken(ValueError):
    """Something else is there, or another process at work."""


class Run:
    """A run at work. directory: where its files are written; path: where they are found in the end."""

    def __init__(self, path: Path, directory: Path, kind: Kind, files: tuple[str, ...]):
        self.path, self.directory = path, directory
        self._kind, self._files, self._done = kind, files, False

    def begin(self, entries: dict[str, Any], anew: bool) -> None:
        """Write the manifest, and remove what another run has left unless it goes on. entries: of the manifest"""
        temporary.clear(self.path)
        for name in self._files if anew else ():
            if is_regular(self.path / name):
                (self.path / name).unlink()
        if self._kind.parts and (self.path / PARTS).exists():
            temporary.clear(self.path / PARTS)
            for part in (self.path / PARTS).iterdir() if anew else ():
                if PART.fullmatch(part.name) and is_regular(part):
                    part.unlink()
        write_manifest(self.path, entries, "running", self._files)

    def finish(self, entries: dict[str, Any], seconds: float) -> Path:
        """Write the manifest, when all that it names is on disk, and put the run in its place; where that is.

        entries: of the manifest; seconds: of work
        Where it cannot take its place (a volume, or one that holds what is not the run's by now) it goes to a name
        next to it.
        """
        files = tuple(name for name in self._files if is_regular(self.directory / name))
        for name in files:
            sync(self.directory / name)
        write_manifest(self.directory, entries | {"seconds": round(seconds, 3)}, "done", files)
        if self.directory != self.path:
            self._replace()
        self._done = True
        sync(self.path.absolute().parent)
        return self.path

    def _replace(self) -> None:
        place = Path(os.path.realpath(self.path))
        with contextlib.suppress(OSError, Taken), temporary.beside(place, directory=True) as old:
            _check_own(self.path, read(self.path))
            os.replace(place, old / place.name)  # and back, if what follows is not reached
            os.replace(self.directory, place)
            return
        names = (self.path.with_name(f"{self.path.name}-{number}") for number in itertools.count(2))
        self.path = next(path for path in names if not os.path.lexists(path))
        os.replace(self.directory, self.path)

    def give_up(self) -> None:
        """Leave no trace of a run that ended without a result."""
        if self._done or self._kind.resumed or self.directory != self.path:
            return
        for name in (*self._files, LOCK, MANIFEST):
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it holds other files by now
            self.path.rmdir()


@contextlib.contextmanager
def begun(out: Path | None, kind: Kind, entries: dict[str, Any], force: bool) -> Iterator[Run]:
    """The run, in a directory that is its own from here on; without `out`, the first free one of kind-1, kind-2, ...

    What ends without a result leaves nothing, unless it is to be resumed. entries: those of `manifest`.
    Raises `ValueError` where something else is there, another process is at work, or nothing can be written.
    """
    with contextlib.ExitStack() as stack:
        path, found = _free(out, kind, entries, force, stack)
        if found["status"] == "done" and not kind.resumed:
            try:
                place = temporary.beside(Path(os.path.realpath(path)), directory=True)
                run = Run(path, stack.enter_context(place), kind, kind.files)
            except OSError as error:
                raise _unwritable(path, error) from None
        else:
            run = Run(path, path, kind, tuple(dict.fromkeys((*kind.files, *found["files"]))))
            stack.enter_context(ending.cleanup(run.give_up))
            run.begin(entries, anew=force or not kind.resumed)
        yield run


def clear(path: Path, kind: Kind, entries: dict[str, Any]) -> None:
    """Remove what a run left that was killed; a run that is done, or at work, stays."""
    with contextlib.suppress(ValueError):
        if check(path, kind, False) is not None:
            with begun(path, kind, entries, False):
                pass


def _free(out: Path | None, kind: Kind, entries, force: bool, stack: contextlib.ExitStack) -> tuple[Path, dict]:
    """The directory, held until the stack is closed, and the manifest in it."""
    if out is not None:
        return out, stack.enter_context(_held(out, kind, entries, force))
    for number in itertools.count(1):
        path = Path(f"{kind.name}-{number}")
        with contextlib.suppress(Taken):
            return path, stack.enter_context(_held(path, kind, entries, False))
    raise AssertionError


def check(path: Path, kind: Kind, force: bool, entries: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """The manifest of the run that is there, None if nothing is.

    entries: of `manifest`, of a kind that is resumed
    Raises `ValueError` for what `begun` would refuse; nothing is changed but what dead processes have left.
    """
    temporary.clear(path.parent)
    try:
        if not os.path.lexists(path):
            return None
        if not path.is_dir():
            raise Taken(f"{path}: --out: expected a directory, there is a file of that name")
        names = [name for name in os.listdir(path) if not temporary.NAMES.fullmatch(name)]
    except OSError as error:
        raise _unwritable(path, error) from None
    if not names:
        return None
    if MANIFEST not in names:
        raise Taken(f"{path}: --out: holds something else than a run of emalign {kind.name}; choose another name")
    found: dict[str, Any] = {"kind": None}
    with contextlib.suppress(ValueError, OSError):
        found = read(path)
    if found["kind"] != kind.name:
        raise Taken(
            f"{path}: --out: its {MANIFEST} is not that of a run of emalign {kind.name}; choose another name, for "
            "--force does not replace it either"
        )
    for name in {LOCK, *kind.files} & {*names}:
        if name not in (LOCK, *found["files"]) or not is_regular(path / name):
            raise Taken(f"{path / name}: --out: is not the run's own file; move it away or choose another name")
    if kind.parts and PARTS in names and ((path / PARTS).is_symlink() or not (path / PARTS).is_dir()):
        raise Taken(f"{path / PARTS}: --out: expected a directory, there is something else of that name")
    if entries is not None and kind.resumed and not force:
        _check_same(path, found, entries)
    elif not kind.resumed and found["status"] == "done":
        if not force:
            raise Taken(f"{path}: --out: is there already; choose another name or pass --force to replace it")
        _check_own(path, found)
    return found


def read(path: Path, kinds: tuple[str, ...] = ()) -> dict[str, Any]:
    """The manifest of the run in a directory, as `manifests.read`. Raises `ValueError` that names the file, the field
    and the rule."""
    file = path / MANIFEST
    if not os.path.lexists(file):
        raise ValueError(f"{file}: not there; expected a directory written by emalign search, sweep, align or tune")
    if not is_regular(file):
        raise ValueError(f"{file}: expected a regular file, got something else")
    return manifests.read(file, kinds)


def add(path: Path, name: str) -> None:
    """Have the manifest of the run at `path` name one more file as the run's own."""
    found = read(path)
    write_manifest(path, found, found["status"], tuple(dict.fromkeys((*found["files"], name))))


def require_room(path: Path, needed: int, what: str) -> None:
    """Raise `ValueError` if `needed` bytes do not fit where the run goes."""
    folder = next(folder for folder in path.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"{what} would take about {memory.size(needed)} on disk, {memory.size(free)} are free in {folder}"
        )


def manifest(kind: Kind, config: dict, seed: int | list[int], **more: Any) -> dict[str, Any]:
    """What was run, with what, where and when. more: entries of the kind's own."""
    device = jax.devices()[0]
    return {
        "schema": SCHEMA,
        "kind": kind.name,
        "command": ["emalign", *sys.argv[1:]],
        "config": config,
        "seed": seed,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "float": str(jnp.result_type(float)),
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        "machine": {"system": platform.platform(), "processors": os.cpu_count()},
        "versions": {"emalign-jax": version("emalign-jax"), "python": sys.version.split()[0]}
        | {name: version(name) for name in PACKAGES},
    } | more


def write_manifest(
    path: Path, entries: dict[str, Any], status: str, files: tuple[str, ...], replace: bool = True
) -> None:
    """Raises `FileExistsError` where one is there that it shall not replace."""
    text = json.dumps(entries | {"status": status, "files": list(files)}, indent=2, allow_nan=False)
    with atomic(path / MANIFEST, replace) as temporary:
        temporary.write_text(text + "\n")


@contextlib.contextmanager
def _held(path: Path, kind: Kind, entries: dict[str, Any], force: bool) -> Iterator[dict[str, Any]]:
    """The manifest in the directory, which is made if it is not there and locked while the block lasts."""
    with contextlib.ExitStack() as stack:
        try:
            if check(path, kind, force, entries) is None:
                if not kind.resumed:  # a signal may come before anything else can undo this
                    undo = functools.partial(_unreserve, path, kind, entries, not os.path.lexists(path))
                    stack.enter_context(ending.cleanup(undo))
                path.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileExistsError):  # of several as quick, one gets the lock
                    write_manifest(path, entries, "running", kind.files, replace=False)
            lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            stack.callback(os.close, lock)
            if temporary.locked(lock) is False or not os.path.samestat(os.fstat(lock), os.lstat(path / LOCK)):
                holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
                raise Taken(
                    f"{path}: --out: another emalign {kind.name} is at work here (process {holder}); wait for it or "
                    "choose another name"
                )
            if not kind.resumed:
                stack.enter_context(ending.cleanup(functools.partial(_unlock, path, lock)))
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
        except OSError as error:
            raise _unwritable(path, error) from None
        found = check(path, kind, force, entries)
        if found is None:
            raise Taken(f"{path}: --out: vanished while the run was about to begin")
        yield found


def _unreserve(path: Path, kind: Kind, entries: dict[str, Any], made: bool) -> None:
    clear(path, kind, entries)
    if made:
        with contextlib.suppress(OSError):  # not what holds a run
            path.rmdir()


def _unlock(path: Path, lock: int) -> None:
    with contextlib.suppress(OSError):
        if os.path.samestat(os.fstat(lock), os.lstat(path / LOCK)):
            (path / LOCK).unlink()


def _check_own(path: Path, found: dict[str, Any]) -> None:
    temporary.clear(path)
    for entry in sorted(path.iterdir()):
        if entry.name not in (MANIFEST, LOCK, *found["files"]) or not is_regular(entry):
            raise Taken(
                f"{entry}: --out: is not the run's own file, so --force does not replace the directory; move it away "
                "or choose another name"
            )


def _check_same(path: Path, found: dict[str, Any], entries: dict[str, Any]) -> None:
    was, now = _identity(found), _identity(entries)
    differences = [
        f"{shortened(name)} is {_show(was.get(name))} there and {_show(now.get(name))} now"
        for name in sorted(was.keys() | now.keys())
        if was.get(name) != now.get(name)
    ]
    if differences:
        more = f"; and {len(differences) - LISTED} more" if len(differences) > LISTED else ""
        raise Taken(
            f"{path}: --out: was begun otherwise: {'; '.join(differences[:LISTED])}{more}; choose another --out, or "
            "pass --force to start anew"
        )


def _identity(entries: dict[str, Any]) -> dict[str, Any]:
    """What must be the same for the table to be the same; a title may change."""
    config = {name: value for name, value in entries["config"].items() if name != "title"}
    versions = {f"version of {name}": value for name, value in entries["versions"].items()}
    return config | versions | {"float": entries.get("float")}


def _show(value: Any) -> str:
    return "not set" if value is None else shortened(json.dumps(value))


def _unwritable(path: Path, error: OSError) -> ValueError:
    return ValueError(f"{path}: --out: cannot be written: {error.strerror}")
