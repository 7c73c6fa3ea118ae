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

_loaded: dict[Path, str] = {}


def load(files: Iterable[Path]) -> dict[str, str]:
    """Run each file as a module of its name, once a process; returns {path: digest of what it holds}, for the manifest.

    As with scripts, files beside it can be imported. Raises `ValueError` that names the file and the line that failed.
    """
    return {str(path): _load(path) for path in files}


def _load(path: Path) -> str:
    check_input(path, "a Python file")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    place = path.resolve()
    if _loaded.get(place) == digest:
        return digest
    name = path.stem
    known = sys.modules.get(name)
    if known is not None and Path(getattr(known, "__file__", None) or "?").resolve() != place:
        raise ValueError(f"{path}: there is a module {name} already; give the file another name")
    spec = importlib.util.spec_from_loader(name, SourceFileLoader(name, str(place)))
    assert spec is not None
    assert spec.loader is not None
    sys.path.insert(0, str(place.parent))
    try:
        if known is None or place in _loaded:  # else it was imported by another plugin
            module = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ValueError(f"{path}{_line(error, place)}: {type(error).__name__}: {shortened(error, 300)}") from None
    finally:
        sys.path.remove(str(place.parent))
    _loaded[place] = digest
    return digest


def _line(error: BaseException, place: Path) -> str:
    if isinstance(error, SyntaxError) and error.filename == str(place):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(place)]
    return f", line {lines[-1]}" if lines else ""
