"""Progress on stderr, on terminals only, and what took the time."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

SLOWEST = 3  # stages that the summary names
COMPILATION = "/jax/core/compile/"  # begins the names of jax's events: tracing, lowering, compiling or loading


class ProgressBar:
    """A bar with the time left; one bar, renamed and refilled stage by stage."""

    def __init__(self, unit: str = "game", quiet: bool = False) -> None:
        self._unit, self._hidden = unit, quiet or not sys.stderr.isatty()
        self._bar: tqdm | None = None
        self._what = ""

    def __enter__(self) -> Callable[[str, int, int], None]:
        return self._tell

    def __exit__(self, *_) -> None:
        if self._bar is not None:
            self._bar.close()

    def _tell(self, what: str, done: int, total: int) -> None:
        if self._hidden:
            return
        if self._bar is None:
            self._bar = tqdm(total=total, file=sys.stderr, leave=False, unit=self._unit, dynamic_ncols=True)
        if what != self._what:
            self._what = what
            self._bar.set_description(what, refresh=False)
            self._bar.reset(total)
        self._bar.update(done - self._bar.n)


class GridProgress:
    """The line of a search or sweep: games done, how many of them are certified, the time left, the processes."""

    def __init__(self, quiet: bool = False) -> None:
        self._hidden = quiet or not sys.stderr.isatty()
        self._bar: tqdm | None = None
        self._stage, self._since = "", time.perf_counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def __enter__(self) -> GridProgress:
        import jax.monitoring

        jax.monitoring.register_event_duration_secs_listener(self._compiled)
        return self

    def __exit__(self, *_) -> None:
        import jax.monitoring

        jax.monitoring.unregister_event_duration_listener(self._compiled)
        self._enter("")
        if self._bar is not None:
            self._bar.close()

    def __call__(self, progress: Any) -> None:
        """progress: an `experiments.grid.run.Progress`."""
        self._enter(progress.stage)
        if self._hidden:
            return
        if self._bar is None:  # What was there took no time, and says nothing about the time left.
            look: dict[str, Any] = {"unit": "game", "leave": False, "dynamic_ncols": True}
            self._bar = tqdm(total=progress.total, initial=progress.done, file=sys.stderr, **look)
        workers = "" if progress.workers in (None, 1) else f"{progress.workers} workers"
        self._bar.set_description(f"{progress.cell} {progress.stage}".strip() or workers, refresh=False)
        if progress.certified:
            self._bar.set_postfix_str(f"{progress.certified} certified", refresh=False)
        self._bar.update(progress.done - self._bar.n)

    def warn(self, sentence: str) -> None:
        tqdm.write(f"emalign: {sentence}", file=sys.stderr)

    def slowest(self) -> str:
        """ "compilation 4.1 s, check 2.0 s": where most of the time of this process went, "" where that is unknown."""
        most = [
            (name, spent)
            for name, spent in sorted(self._seconds.items(), key=lambda one: -one[1])
            if name and spent >= 0.05
        ]
        return ", ".join(f"{name} {spent:.1f} s" for name, spent in most[:SLOWEST])

    def _enter(self, stage: str) -> None:
        now = time.perf_counter()
        self._seconds[self._stage] += now - self._since
        self._stage, self._since = stage, now

    def _compiled(self, event: str, duration_secs: float, **_) -> None:
        if event.startswith(COMPILATION):
            self._seconds["compilation"] += duration_secs
            self._seconds[self._stage] -= duration_secs


def tell_fallbacks(count: int, of: int) -> None:
    """The line on answers of the batched solver that were not proved, if there are any."""
    if count:
        print(f"{count} of {of} done again one by one: an answer of the batched solver failed its check.")
