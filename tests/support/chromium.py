"""The system's Chromium, driven by playwright; tests without either are skipped and say so."""

import contextlib
import os
import shutil

import pytest

QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@contextlib.contextmanager
def browser():
    """A headless browser that is closed in the end."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        pytest.skip("needs Chromium, in the path or named by $CHROMIUM")
    with api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=found, args=list(QUIET))
        yield opened
        opened.close()
