"""Control-C is never lost: Python drops what is raised in a garbage collector's callback or in `__del__`."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

AGAIN = 0.05  # seconds: the callback has ended by then


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Within it, an interruption that Python could not raise where it came is sent once more a moment later."""
    before = sys.unraisablehook

    def hook(unraisable) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            return before(unraisable)
        timer = threading.Timer(AGAIN, _interrupt)
        timer.daemon = True
        timer.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def _interrupt() -> None:
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:  # this one wakes a thread that waits
        signal.pthread_kill(main, signal.SIGINT)
    else:
        signal.raise_signal(signal.SIGINT)
