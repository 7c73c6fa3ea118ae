"""The directory of a run of search, sweep, tune or align: its files, the process at work, and how it is continued.

It holds manifest.json, the files of its kind, and while the run is unfinished parts/, what is done of it. The manifest
is written first, which reserves the name, and says `running`; it is written last, and says `done`. It names the files
that the run has written or may write. These, the lock, temporary names and the parts in parts/ are the run's own; all
else belongs to others and is never touched.

The same command continues where an earlier one stopped, however that ended; of a run that is done it returns the
files. One process at a time is at work: the lock is the kernel's, so that one of a killed process blocks no other.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from filelock import FileLock, Timeout

from emalign_jax.experiments import manifests
from emalign_jax.experiments.manifests import MANIFEST, SCHEMA
from emalign_jax.experiments.run_parts import PARTS, Parts, say
from emalign_jax.internal import ending, memory, temporary
from emalign_jax.internal.arguments import shortened
from emalign_jax.internal.files import atomic, is_regular, sync
from emalign_jax.internal.version import VERSION

PACKAGES = ("jax", "jaxlib", "equinox", "optax", "numpy", "highspy")
LOCK = ".emalign-lock"
FORMATS = (".png", ".pdf", ".svg")  # of figures
LISTED = 5  # differences between two manifests that are named


class Kind(NamedTuple):
    """name: in manifests, and of the command; files: names that a run may write."""

    name: str
    files: tuple[str, ...]


def figures(*names: str) -> tuple[str, ...]:
    """The names of the files that figures of these names may have."""
    return tuple(name + kind for name in names for kind in FORMATS)


class Taken(ValueError):
    """Something else is there, or another process at work."""


class Run(Parts):
    """A run at work in the directory `path`. Its files are written there with `internal.files.atomic`.

    done: its files are there, and it is over: there is nothing to compute, or `finish` was called
    """

    done: bool = False

    def __init__(self, path: Path, kind: Kind, warn: Callable[[str], None] = say):
        self._made, self._files = not os.path.lexists(path), kind.files
        self._own: os.stat_result | None = None  # the lock file
        self._begun = False
        self._lock = FileLock(path / LOCK, blocking=False, thread_local=False)  # signals may end it in another thread
        super().__init__(path, warn)

    def finish(self, entries: dict[str, Any], seconds: float) -> None:
        """Write the manifest, when all that it names is on disk; then the parts are removed.

        entries: of `manifest`, and more; seconds: of work
        """
        files = tuple(name for name in self._files if is_regular(self.path / name))
        for name in files:
            sync(self.path / name)
        write_manifest(self.path, entries | {"seconds": round(seconds, 3)}, "done", files)
        self.done = True
        sync(self.path.absolute().parent)
        self._clear()

    def _begin(self, found: dict[str, Any] | None, entries: dict[str, Any], force: bool) -> None:
        """found, entries: the manifest that is there, and that of the run"""
        if found is not None:
            self._made = True  # by an earlier process of the run
            self._files = tuple(dict.fromkeys((*self._files, *found["files"])))
            self.done = found["status"] == "done" and not force
        temporary.clear(self.path)
        temporary.clear(self.path / PARTS)
        self.look()
        if force or self.done:  # killed after its last manifest, a run leaves parts
            self._clear()
        if not self.done:
            self._begun = True
            write_manifest(self.path, entries, "running", self._files)
            if not self._there:  # files are of a run that this one replaces, or are made again
                self._remove_files()

    def _clear(self) -> None:
        self.look()
        for files in self._there.values():
            for file in files:
                self._remove(file)
        self._there = {}
        with contextlib.suppress(OSError):  # it is not there, or holds what is not the run's
            (self.path / PARTS).rmdir()

    def _remove_files(self) -> None:
        for name in self._files:
            if is_regular(self.path / name):
                (self.path / name).unlink()

    def _leave(self) -> None:
        """However the run ends: remove the lock, and all else if it was begun, is not done and no part is kept."""
        if self._holds():
            self.look()
            if self._begun and not (self.done or self._there):
                self._clear()
                self._remove_files()
                (self.path / MANIFEST).unlink(missing_ok=True)
            (self.path / LOCK).unlink(missing_ok=True)
        if self._made:
            with contextlib.suppress(OSError):  # not what holds a run, or other files by now
                self.path.rmdir()

    def _holds(self) -> bool:
        """Whether the lock file is still the one that this process has locked: once it is removed, which is done while
        the lock is held, another process may have made its own."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            there = os.lstat(self.path / LOCK)
            return self._lock.is_locked and (self._own is None or os.path.samestat(there, self._own))
        return False

    def _words(self) -> str:
        kept = f"what is done is kept in {self.path}; the same command goes on from there"
        return kept if self._there and not self.done else ending.CLEAN


@contextlib.contextmanager
def begun(
    out: Path | None, kind: Kind, entries: dict[str, Any], force: bool, warn: Callable[[str], None] = say
) -> Iterator[Run]:
    """The run, in a directory that is its own while the block lasts.

    out:     None: the first of kind-1, kind-2, ... that is not there, or (without `force`) holds an unfinished run of
             the same specification that nobody is at work on
    entries: those of `manifest`. A run of the same specification (see `_identity`) goes on, or is done.
    force:   start anew; what is the run's own there is removed at once
    warn:    of `Parts`

    What ends early, by an exception or a signal, leaves nothing if no part was kept, and all for the next process if
    one was. Raises `ValueError` where something else is there (`Taken`), another process is at work (`Taken`), or
    nothing can be written.
    """
    for path in [out] if out is not None else (Path(f"{kind.name}-{n}") for n in itertools.count(1)):
        with contextlib.ExitStack() as stack:
            try:
                run = stack.enter_context(_held(path, kind, entries, force, out is not None, warn))
            except Taken:
                if out is not None:
                    raise
            else:
                yield run
                return


@contextlib.contextmanager
def _held(path: Path, kind: Kind, entries: dict, force: bool, named: bool, warn) -> Iterator[Run]:
    def look() -> dict[str, Any] | None:
        found = check(path, kind, force, entries)
        if found is not None and not named and (force or found["status"] == "done"):
            raise Taken(f"{path}: is there already")
        return found

    look()
    run = Run(path, kind, warn)
    with contextlib.ExitStack() as stack:
        stack.callback(run._lock.release)  # when no signal can have _leave called again: see _holds
        stack.enter_context(ending.interrupt_message(run._words))
        stack.enter_context(ending.cleanup(run._leave))  # registered before the directory exists
        try:
            path.mkdir(parents=True, exist_ok=True)
            run._lock.acquire()  # not of a file that has been removed meanwhile
            run._own = os.lstat(path / LOCK)
            run._begin(look(), entries, force)
        except Timeout:
            raise Taken(
                f"{path}: --out: another emalign {kind.name} is at work here; wait for it or choose another name"
            ) from None
        except FileNotFoundError:
            raise Taken(f"{path}: --out: vanished while the run was about to begin") from None
        except OSError as error:
            raise _unwritable(path, error) from None
        yield run


def check(path: Path, kind: Kind, force: bool, entries: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """The manifest of the run that is there, None if nothing is.

    entries: of `manifest`; None: what the run is of is not compared
    Raises `ValueError` for what `begun` would refuse; nothing is changed but what dead processes have left.
    """
    temporary.clear(path.parent)
    try:
        if not os.path.lexists(path):
            return None
        if not path.is_dir():
            raise Taken(f"{path}: --out: expected a directory, there is a file of that name")
        names = {name for name in os.listdir(path) if not temporary.NAMES.fullmatch(name)}
    except OSError as error:
        raise _unwritable(path, error) from None
    if not names or (names == {LOCK} and is_regular(path / LOCK)):
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
    for name in {LOCK, *kind.files} & names:
        if name not in (LOCK, *found["files"]) or not is_regular(path / name):
            raise Taken(f"{path / name}: --out: is not the run's own file; move it away or choose another name")
    if PARTS in names and ((path / PARTS).is_symlink() or not (path / PARTS).is_dir()):
        raise Taken(f"{path / PARTS}: --out: expected a directory, there is something else of that name")
    if entries is not None and not force:
        _check_same(path, found, entries)
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


def add(path: Path, *names: str) -> None:
    """Have the manifest of the run at `path` name more files as the run's own."""
    found = read(path)
    write_manifest(path, found, found["status"], tuple(dict.fromkeys((*found["files"], *names))))


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
        "versions": {"emalign-jax": VERSION, "python": sys.version.split()[0]}
        | {name: version(name) for name in PACKAGES},
    } | more


def write_manifest(path: Path, entries: dict[str, Any], status: str, files: tuple[str, ...]) -> None:
    text = json.dumps(entries | {"status": status, "files": list(files)}, indent=2, allow_nan=False)
    with atomic(path / MANIFEST) as made:
        made.write_text(text + "\n")


def _check_same(path: Path, found: dict[str, Any], entries: dict[str, Any]) -> None:
    was, now = _identity(found), _identity(entries)
    pairs = {name: (was.get(name), now.get(name)) for name in sorted(was.keys() | now.keys())}
    differences = [f"{shortened(x)} is {_show(a)} there and {_show(b)} now" for x, (a, b) in pairs.items() if a != b]
    if differences:
        more = f"; and {len(differences) - LISTED} more" if len(differences) > LISTED else ""
        raise Taken(
            f"{path}: --out: was begun otherwise: {'; '.join(differences[:LISTED])}{more}; choose another --out, or "
            "pass --force to start anew"
        )


def _identity(entries: dict[str, Any]) -> dict[str, Any]:
    """What must be the same for the table to be the same. A title may change, and where games or a table lie:
    their digest may not."""
    config = {
        name: value for name, value in entries["config"].items() if name not in ("title", "games.file", "table.file")
    }
    versions = {f"version of {name}": value for name, value in entries["versions"].items()}
    return config | versions | {"float": entries.get("float")}


def _show(value: Any) -> str:
    return "not set" if value is None else shortened(json.dumps(value))


def _unwritable(path: Path, error: OSError) -> ValueError:
    return ValueError(f"{path}: --out: cannot be written: {error.strerror}")
