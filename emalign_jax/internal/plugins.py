"""Python files of one's own that the command line imports, so that what they define is known by name."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable
from importlib.machinery import SourceFileLoader
from pathlib import Path

from emalign_jax.internal.arguments import shortened
from emalign_jax.internal.files import check_input

_digests: dict[Path, tuple[str, str]] = {}  # Of the file alone, and of it with the files that it imported.


def load(files: Iterable[Path]) -> dict[str, str]:
    """Run each file as a module of its name, once a process. Returns {file name: digest}, for the manifest; the digest
    is of the file and of the files beside it that it imports.

    Raises `ValueError` that names the file and the line that failed.
    """
    return {Path(path).name: _load(Path(path)) for path in files}


def line_of(error: BaseException) -> str:
    """ "FILE, line N" of the last frame of the traceback that lies in a plugin, "" if none does."""
    lines = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) in _digests]
    return f"{lines[-1].filename}, line {lines[-1].lineno}" if lines else ""


def _load(path: Path) -> str:
    check_input(path, "a Python file")
    alone, place, name = _digest([path]), path.resolve(), path.stem
    if place in _digests and _digests[place][0] == alone:
        return _digests[place][1]
    if _is_taken(name, place):
        raise ValueError(f"{path}: there is a module {name} already; give the file another name")
    spec = importlib.util.spec_from_loader(name, SourceFileLoader(name, str(place)))
    assert spec is not None
    assert spec.loader is not None
    if str(place.parent) not in sys.path:
        sys.path.append(str(place.parent))  # Last, so that no file there stands in for a library.
    before = set(sys.modules)
    try:
        if name not in sys.modules or place in _digests:  # Otherwise another plugin has imported it.
            module = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        raise ValueError(f"{path}{_line(error, place)}: {type(error).__name__}: {shortened(error, 300)}") from None
    added = (getattr(sys.modules[module], "__file__", None) for module in set(sys.modules) - before)
    beside = {Path(file) for file in added if file and place.parent in Path(file).resolve().parents}
    _digests[place] = alone, _digest([place, *sorted(beside - {place})])
    return _digests[place][1]


def _is_taken(name: str, place: Path) -> bool:
    """Whether a module of this name, from another file, is loaded or could be imported."""
    known = sys.modules.get(name)
    if known is not None:
        return Path(getattr(known, "__file__", None) or "?").resolve() != place
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return True
    return found is not None and Path(found.origin or "?").resolve() != place


def _digest(files: list[Path]) -> str:
    found = hashlib.sha256()
    for file in files:
        found.update(file.read_bytes())
    return found.hexdigest()


def _line(error: BaseException, place: Path) -> str:
    if isinstance(error, SyntaxError) and error.filename == str(place):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(place)]
    return f", line {lines[-1]}" if lines else ""
