"""Compiled programs are kept for later runs, where the user keeps such things, unless told otherwise."""

import os
import subprocess
import sys

import pytest
from support.commands import ENVIRONMENT

from emalign_jax.internal import compiled_cache

SEARCH = ("search", "--agents", "2", "--family", "hull", "--count", "2", "--states", "2", "--actions", "2")


def run(home, *words):
    """Files in the cache after a command."""
    hidden = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    environment = {name: value for name, value in ENVIRONMENT.items() if name not in hidden}
    environment |= {"XDG_CACHE_HOME": str(home / "cache")}
    command = [sys.executable, "-m", "emalign_jax", *words, "--out", str(home / "out"), "--force"]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return sorted(str(path) for path in (home / "cache").rglob("*") if path.is_file() and path.name.endswith("-cache"))


@pytest.mark.slow
@pytest.mark.host_only
def test_the_second_run_compiles_nothing(tmp_path):
    assert run(tmp_path, "--no-cache", *SEARCH) == []
    first = run(tmp_path, *SEARCH)
    assert len(first) > 3
    assert all("/cache/emalign/xla-" in name for name in first)
    assert run(tmp_path, *SEARCH) == first  # what had to be compiled would have been added


def test_a_directory_for_each_processor(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    here = compiled_cache.directory()
    assert here.parent == tmp_path / "emalign"
    monkeypatch.setattr(compiled_cache, "_processor", lambda: "another")
    assert compiled_cache.directory() != here
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the standard says to ignore
    assert compiled_cache.directory().is_relative_to(os.path.expanduser("~"))
