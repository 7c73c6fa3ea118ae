"""Python files that the command line imports, so that the classes they define are known by name."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import NamedTuple

from emalign_jax.internal.arguments import shortened
from emalign_jax.internal.files import check_input


class _Loaded(NamedTuple):
    """Digests of a file alone, and of it with the files beside it that it imported; all of these, the file first, by
    their paths from its folder."""

    alone: str
    digest: str
    files: dict[str, bytes]


class Sources(NamedTuple):
    """digests: {file name of a plugin: digest, as of `load`}, in the order in which they were loaded.
    files: {path: contents} of all of them and of what they import, from one folder; bytes, so that digests agree."""

    digests: dict[str, str]
    files: dict[str, bytes]


_loaded: dict[Path, _Loaded] = {}
_one_at_a_time = threading.Lock()


def load(files: Iterable[Path]) -> dict[str, str]:
    """Run each file as a module of its name, once a process. Returns {file name: digest}, for the manifest; the digest
    is of the file and of the files beside it that it imports.

    Raises `ValueError` that names the file and the line that failed.
    """
    return {Path(path).name: _load(Path(path)) for path in files}


def sources() -> Sources:
    """All plugins that this process has loaded, for processes on hosts that do not see its files.

    Files that a plugin imports later than when it is loaded, or reads, are not among them.
    """
    files = {name: text for loaded in _loaded.values() for name, text in loaded.files.items()}
    return Sources({place.name: loaded.digest for place, loaded in _loaded.items()}, files)


def load_sources(sources: Sources) -> None:
    """Load the plugins that this process has not loaded yet, from a folder that is gone afterwards.

    Raises `ValueError` as `load` does, and if the process has other plugins under these names, or finds other files.
    """
    with _one_at_a_time:
        here = {place.name: loaded.digest for place, loaded in _loaded.items()}
        missing = [name for name in sources.digests if name not in here]
        if missing:
            with tempfile.TemporaryDirectory(prefix="emalign-plugins-") as folder:
                place = Path(folder).resolve()
                for name, text in sources.files.items():
                    (place / name).parent.mkdir(parents=True, exist_ok=True)
                    (place / name).write_bytes(text)
                sys.path.insert(0, str(place))  # First, because the files may be found where they come from as well.
                try:
                    here |= load(place / name for name in missing)
                finally:
                    sys.path.remove(str(place))
    different = [name for name, digest in sources.digests.items() if here[name] != digest]
    if different:
        raise ValueError(
            f"--plugin: a worker has another {different[0]}, of an earlier command; start the workers again"
        )


def line_of(error: BaseException) -> str:
    """ "FILE, line N" of the last frame of the traceback that lies in a plugin, "" if none does. Of an error that comes
    from another process, what was found there, which is its attribute `plugin_line`."""
    lines = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) in _loaded]
    return f"{lines[-1].filename}, line {lines[-1].lineno}" if lines else getattr(error, "plugin_line", "")


def _load(path: Path) -> str:
    check_input(path, "a Python file")
    alone, place, name = _digest([path.read_bytes()]), path.resolve(), path.stem
    if place in _loaded and _loaded[place].alone == alone:
        return _loaded[place].digest
    if _is_taken(name, place):
        raise ValueError(f"{path}: there is a module {name} already; give the file another name")
    spec = importlib.util.spec_from_loader(name, SourceFileLoader(name, str(place)))
    assert spec is not None
    assert spec.loader is not None
    if str(place.parent) not in sys.path:
        sys.path.append(str(place.parent))  # Last, so that no file there stands in for a library.
    before = set(sys.modules)
    try:
        if name not in sys.modules or place in _loaded:  # Otherwise another plugin has imported it.
            module = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        raise ValueError(f"{path}{_line(error, place)}: {type(error).__name__}: {shortened(error, 300)}") from None
    added = (getattr(sys.modules[module], "__file__", None) for module in set(sys.modules) - before)
    beside = {Path(file) for file in added if file and place.parent in Path(file).resolve().parents}
    order = [place, *sorted(beside - {place})]
    files = {file.resolve().relative_to(place.parent).as_posix(): file.read_bytes() for file in order}
    _loaded[place] = _Loaded(alone, _digest(files.values()), files)
    return _loaded[place].digest


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


def _digest(texts: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for text in texts:
        found.update(text)
    return found.hexdigest()


def _line(error: BaseException, place: Path) -> str:
    if isinstance(error, SyntaxError) and error.filename == str(place):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(place)]
    return f", line {lines[-1]}" if lines else ""
