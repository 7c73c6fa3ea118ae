"""Work shared among processes of this machine, where much of it is Python, which threads keep waiting.

A member is a fresh interpreter that imports this package and nothing of the caller's: it neither forks nor runs the
caller's script again. It gets arrays and answers with arrays, as .npz bytes over its own pipes; nothing is pickled.
Members are started when there is work for seconds, stay for the next, ignore Control-C, and end when their pipe does,
which is when the caller ends or is interrupted. The caller works along, so that nobody waits for them to start.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import io
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from emalign_jax.workers import cores

Arrays = dict[str, np.ndarray]
WORTH = 2.0  # seconds of work, in all, for which members are started: to start takes one so much of a core
ERRORS = {error.__name__: error for error in (ValueError, ArithmeticError, MemoryError, RuntimeError)}
START = "import sys; sys.path[0] = sys.argv[1]; from emalign_jax.exact.team import serve; serve()"


def share(
    task: Callable[[Arrays], Arrays], arguments: list[Arrays], tell: Callable[[int], None] = lambda done: None
) -> list[Arrays]:
    """[task(a) for a in arguments], by as many processes as there are cores if it takes long.

    task: a function at the top of a module of this package, whose answer depends on its arrays alone.
    tell: called here now and then with how many are done.
    Raises what `task` raises anywhere; MemoryError if a member is killed over its work, RuntimeError if it ends.
    """
    work = _Work(task, arguments, tell)
    alone = len(arguments) < 2 or cores() == 1 or not sys.executable
    if alone or not _members():
        began = time.perf_counter()
        work.some(1)
        _seen[0] += len(arguments) * (time.perf_counter() - began)
        alone = alone or _seen[0] < WORTH
    return work.all([] if alone else _members(min(cores(), len(work.left)) - 1))


class _Work:
    def __init__(self, task, arguments: list[Arrays], tell):
        self.task, self.arguments, self.tell = task, arguments, tell
        self.left = deque(range(len(arguments)))
        self.answers: dict[int, Arrays] = {}
        self.errors: list[BaseException] = []
        self.changed = threading.Condition()

    def some(self, most: int) -> None:
        """Do so many here."""
        while self.left and most and not self.errors:
            self._do(self.task)
            most -= 1
            self.tell(len(self.answers))

    def all(self, members: list[Member]) -> list[Arrays]:
        for member in members:
            threading.Thread(target=self._take, args=(member,), daemon=True).start()
        try:
            self.some(len(self.arguments))
            with self.changed:  # members that are still starting are not waited for
                self.changed.wait_for(lambda: self.errors or len(self.answers) == len(self.arguments))
        except BaseException:
            self.left.clear()
            dismiss()  # they are in the middle of something that nobody will read
            raise
        if self.errors:
            dismiss()
            raise self.errors[0]
        return [self.answers[n] for n in range(len(self.arguments))]

    def _take(self, member: Member) -> None:
        name = f"{self.task.__module__}:{self.task.__qualname__}"
        try:
            if member.is_ready():
                while self.left:
                    self._do(lambda arrays: member.ask(name, arrays))
        except BaseException as error:
            self.left.clear()
            with self.changed:
                self.errors.append(error)
                self.changed.notify_all()

    def _do(self, call: Callable[[Arrays], Arrays]) -> None:
        try:
            n = self.left.popleft()
        except IndexError:  # another was faster
            return
        answer = call(self.arguments[n])
        with self.changed:
            self.answers[n] = answer
            self.changed.notify_all()


class Member:
    """The caller's end of one process."""

    def __init__(self):
        here = str(Path(__file__).resolve().parents[2])
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, here], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        self.ready: bool | None = None
        self._lock = threading.Lock()

    def is_ready(self) -> bool:
        """Wait until it has started; False if it could not, and the others do without it."""
        with self._lock:
            if self.ready is None:
                self.ready = _receive(self.process.stdout) is not None
            return self.ready

    def ask(self, task: str, arrays: Arrays) -> Arrays:
        with self._lock:
            try:
                _send(self.process.stdin, {"task": np.array(task), **arrays})
                answer = _receive(self.process.stdout)
            except OSError:
                answer = None
        if answer is None:
            code = self.process.wait()
            if code == -9:
                raise MemoryError(
                    "a process that checks games was killed, as a rule for want of memory: take fewer cores"
                )
            raise RuntimeError(f"a process that checks games ended with code {code}: what it said is on standard error")
        if "error" in answer:
            raise ERRORS.get(str(answer["error"]), RuntimeError)(str(answer["message"]))
        return answer

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):  # something may be left in it
                pipe.close()  # type: ignore[union-attr]


_seen = [0.0]  # seconds of work that could have been shared, so far
_team: list[Member] = []
_owner = 0  # the process that started them: a fork of it has none


def _members(count: int = 0) -> list[Member]:
    """Those there are, and more to make up `count`."""
    global _owner
    if _owner != os.getpid():
        _team.clear()
        _owner = os.getpid()
    _team[:] = [m for m in _team if m.ready is not False and m.process.poll() is None]
    while len(_team) < count:
        _team.append(Member())
    return _team[: count or None]


@atexit.register
def dismiss() -> None:
    """End all members at once."""
    for member in _members():
        member.end()
    _team.clear()


def serve() -> None:
    """What a member does: say that it is ready, then answer until its pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nobody else's words on the pipe
    _send(out, {})
    while (arrays := _receive(sys.stdin.buffer)) is not None:
        module, name = str(arrays.pop("task")).split(":")
        try:
            answer = getattr(importlib.import_module(module), name)(arrays)
        except Exception as error:
            answer = {"error": np.array(type(error).__name__), "message": np.array(str(error))}
        try:
            _send(out, answer)
        except BrokenPipeError:
            os._exit(1)


def _send(pipe: Any, arrays: Arrays) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    pipe.write(struct.pack("<q", buffer.tell()) + buffer.getvalue())
    pipe.flush()


def _receive(pipe: Any) -> Arrays | None:
    """None at the end of the pipe."""
    head = _read(pipe, 8)
    body = None if head is None else _read(pipe, struct.unpack("<q", head)[0])
    if body is None:
        return None
    with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
        return dict(arrays)


def _read(pipe: BinaryIO, count: int) -> bytes | None:
    found = pipe.read(count)
    return found if len(found) == count else None
