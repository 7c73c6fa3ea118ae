"""Where the commands keep compiled programs, so that a second run compiles nothing."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
from pathlib import Path
from typing import Any


def keep() -> None:
    """Let jax keep compiled programs in the user's cache directory, unless `JAX_COMPILATION_CACHE_DIR` names another.

    To be called before jax is imported, which reads its settings from the environment. Where the user has no home
    directory nothing is kept.
    """
    with contextlib.suppress(RuntimeError):
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(directory()))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def keep_here() -> None:
    """As `keep`, in a process that may have imported jax already, but has compiled nothing."""
    import jax

    config: Any = jax.config
    if config.jax_compilation_cache_dir is None:
        with contextlib.suppress(RuntimeError):
            config.update("jax_compilation_cache_dir", str(directory()))
        config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def forget() -> None:
    """Neither read nor write compiled programs, here and in processes that this one starts."""
    import jax

    jax.config.update("jax_enable_compilation_cache", False)
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"


def directory() -> Path:
    """In the user's cache directory a folder for each kind of processor, because programs compiled for one may not run
    on another that shares the home directory."""
    return home() / f"xla-{hashlib.sha256(_processor().encode()).hexdigest()[:12]}"


def home() -> Path:
    """The user's cache directory for this package: `emalign` in `XDG_CACHE_HOME`, or in ~/.cache. Raises `RuntimeError`
    where the user has no home directory."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
    return base / "emalign"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    kinds = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    return "\n".join([platform.machine(), platform.processor(), *kinds])
