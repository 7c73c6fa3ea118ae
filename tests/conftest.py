"""Tests run in float64, and once more in float32 with EMALIGN_TEST_X64=0 (tests marked x64 are skipped then)."""

import os
import re
import signal
import zlib

import jax
import pytest

X64 = os.environ.get("EMALIGN_TEST_X64", "1") == "1"
jax.config.update("jax_enable_x64", X64)

# a shell without job control starts background commands that ignore interrupts, and children would inherit that
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# shapes and dtypes of every annotated function and module are enforced here, and only here
from jaxtyping import install_import_hook  # noqa: E402

install_import_hook("emalign_jax", "beartype.beartype")


def pytest_addoption(parser):
    for kind in ("slow", "fast"):
        text = f"run one of N {kind} tests, always the same ones (default 1: all)"
        parser.addoption(f"--one-{kind}-test-in", type=int, default=1, metavar="N", help=text)


def pytest_ignore_collect(collection_path, config):
    """Of the float32 pass, modules that are host_only as a whole, which take half of the time to collect."""
    if not X64 and "not host_only" in config.option.markexpr and collection_path.name.startswith("test_"):
        return bool(re.search(r"^pytestmark = .*host_only", collection_path.read_text("utf-8"), re.M)) or None
    return None


def pytest_collection_modifyitems(config, items):
    every = {kind: max(1, config.getoption(f"--one-{kind}-test-in")) for kind in ("slow", "fast")}
    left_out = [
        item
        for item in items
        if zlib.crc32(item.nodeid.encode()) % every["slow" if "slow" in item.keywords else "fast"]
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    for item in items:
        if "x64" in item.keywords and not X64:
            item.add_marker(pytest.mark.skip(reason="needs float64 on the accelerated side"))
        if "nightly" in item.keywords and os.environ.get("EMALIGN_NIGHTLY") != "1":
            item.add_marker(pytest.mark.skip(reason="set EMALIGN_NIGHTLY=1 to run it"))


@pytest.fixture
def empty_directory(tmp_path, monkeypatch):
    """The test runs in a directory of its own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys):
    """run("search", ...) -> (exit code, stdout, stderr) of the command line, in the test's process."""
    from emalign_jax.cli import main

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return call
