"""The folder parts/: what is done of a run that is not finished.

A part is a file that is written whole, is named after what it holds, and is never changed. Every file in parts/ whose
name is that of a part belongs to the run.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from emalign_jax.internal.files import atomic, is_regular

PARTS = "parts"
PART = re.compile(r"([0-9a-z-]+)-([0-9a-f]{16})(\.[0-9a-z]+)")  # name, digest, suffix


def say(sentence: str) -> None:
    tqdm.write(f"emalign: {sentence}", file=sys.stderr)  # above a bar, if there is one


class Parts:
    """The parts of the run at `path`. A name is of 0-9, a-z and -; a suffix is such as ".npz".

    warn: called with a sentence about each part that is damaged
    Several processes may keep parts of one run, of different names. Only a `Run` removes all.
    """

    def __init__(self, path: Path, warn: Callable[[str], None] = say):
        self.path, self.warn = path, warn
        self._there: dict[tuple[str, str], list[str]] = {}
        self.look()

    def look(self) -> None:
        """List the directory, which is done once; again, to see what other processes have kept since."""
        self._there = {}
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for file in os.listdir(self.path / PARTS):
                if found := PART.fullmatch(file):
                    self._there.setdefault((found[1], found[3]), []).append(file)

    def keep(self, name: str, suffix: str, data: bytes) -> None:
        """Write a part through to the disk, in place of an older one of its name and suffix. Raises `ValueError` in one
        line if it cannot be written, when the older one is still there."""
        file = _file(name, suffix, io.BytesIO(data))
        found = PART.fullmatch(file)
        if found is None or (found[1], found[3]) != (name, suffix):
            raise ValueError(f"{name!r}, {suffix!r}: expected a name of 0-9, a-z and -, and a suffix such as .npz")
        (self.path / PARTS).mkdir(exist_ok=True)
        with atomic(self.path / PARTS / file) as made:
            made.write_bytes(data)
        for older in self._there.get((name, suffix), []):
            if older != file:
                self._remove(older)
        self._there[name, suffix] = [file]

    def part(self, name: str, suffix: str) -> bytes | None:
        """What was kept, None if it is not there. Of damaged files `warn` is told, and they are removed."""
        file = self._whole(name, suffix)
        return None if file is None else (self.path / PARTS / file).read_bytes()

    def kept(self, name: str, suffix: str) -> bool:
        """Whether `part` would return it; its digest is checked, without holding it in memory."""
        return self._whole(name, suffix) is not None

    def _whole(self, name: str, suffix: str) -> str | None:
        files = self._there.get((name, suffix), [])
        if len(files) > 1:  # a process was killed before it had removed the older one
            files = sorted(files, key=lambda file: (self.path / PARTS / file).lstat().st_mtime_ns, reverse=True)
        for file in files:
            if is_regular(self.path / PARTS / file):
                with open(self.path / PARTS / file, "rb") as held:
                    if file == _file(name, suffix, held):
                        return file
            self.warn(f"{self.path / PARTS / file}: damaged; what it held is computed again")
            self._remove(file)
            self._there[name, suffix] = [other for other in self._there[name, suffix] if other != file]
        return None

    def _remove(self, file: str) -> None:
        if is_regular(self.path / PARTS / file):
            (self.path / PARTS / file).unlink()


def _file(name: str, suffix: str, held: io.BufferedIOBase) -> str:
    """The name of the file: its digest is of whose it is, too, so that a copy of another part is not taken for this."""
    digest = hashlib.file_digest(held, lambda: hashlib.sha256(f"{name} ".encode())).hexdigest()[:16]
    return f"{name}-{digest}{suffix}"
