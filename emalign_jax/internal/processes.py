"""Work shared among processes of this machine, for code that is mostly Python, which threads do not run in parallel.

A member is a new interpreter that imports this package only: it neither forks nor runs the caller's script again. It
receives arrays and answers with arrays, as .npz bytes over pipes; nothing is pickled. Members are started when there is
work for seconds, and are used again. They end when their pipe is closed, that is when the caller ends, is killed or is
interrupted; signals to the caller's process group do not reach them. The caller works too, so that it does not wait for
members to start; if none can be started, it works alone.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import io
import os
import queue
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from emalign_jax.internal import ending
from emalign_jax.internal.processors import cores

Arrays = dict[str, np.ndarray]
# Seconds between two checks of what the members have done.
PATIENCE = 0.2
# Members are started for more seconds of work than this, about what it takes to start one.
LEAST_WORK = 2.0
# Exceptions of a member that are raised again in the caller; others become RuntimeError.
ERRORS = {error.__name__: error for error in (ValueError, ArithmeticError, MemoryError, RuntimeError)}
# Code of a member: output other than answers goes to stderr, and packages are found as in the caller.
START_CODE = (
    "import os, sys; out = os.dup(1); os.dup2(2, 1); "
    "sys.path[:] = sys.argv[1:]; from emalign_jax.internal.processes import serve; serve(out)"
)
# Every message begins with it.
MESSAGE_PREFIX = b"emalign"


def share(
    task: Callable[[Arrays], Arrays], arguments: list[Arrays], progress: Callable[[int], None] = lambda done: None
) -> list[Arrays]:
    """[task(a) for a in arguments], in as many processes as there are cores if it takes long.

    task:     a function at the top level of a module of this package that depends on its arrays alone.
    progress: called in this process, now and then, with the number of answers.
    Raises what `task` raises in any process. If a member is killed or ends, its work is done by the others, with a
    warning.
    """
    work = _Work(task, arguments, progress)
    if len(arguments) < 2 or cores() == 1 or not _can_start() or not _busy.acquire(blocking=False):
        return work.all([])
    try:
        if not _members():
            began = time.perf_counter()
            work.some(1)
            _seconds_seen[0] += len(arguments) * (time.perf_counter() - began)
            if _seconds_seen[0] < LEAST_WORK:
                return work.all([])
        return work.all(_members(min(cores(), len(work.left)) - 1))
    finally:
        _busy.release()


class MemberLost(Exception):
    """A member's process has ended."""


class _Work:
    """The arguments that are left, the answers and errors so far."""

    def __init__(self, task, arguments: list[Arrays], progress):
        self.task, self.arguments, self.progress = task, arguments, progress
        self.left = deque(range(len(arguments)))
        self.answers: dict[int, Arrays] = {}
        self.errors: list[BaseException] = []
        self.lost: list[MemberLost] = []
        self.changed = threading.Condition()

    def some(self, most: int) -> None:
        """Compute at most `most` answers in this process."""
        while self.left and most and not self.errors:
            self._do(self.task)
            most -= 1
            self.progress(len(self.answers))

    def all(self, members: list[Member]) -> list[Arrays]:
        """All answers, computed by the members and in this process."""
        try:
            with contextlib.suppress(RuntimeError):  # raised if no more threads can be started
                for member in members:
                    threading.Thread(target=self._take, args=(member,), daemon=True).start()
            while not self.errors and len(self.answers) < len(self.arguments):
                self.some(len(self.arguments))
                with self.changed:  # only answers that members are computing are waited for
                    if not self.left and len(self.answers) < len(self.arguments):
                        self.changed.wait(PATIENCE)
                self.progress(len(self.answers))
        except BaseException:
            self.left.clear()
            if members:  # without members of its own this call leaves those of other threads alone
                dismiss()  # their answers will not be read
            raise
        if self.errors:
            dismiss()
            raise self.errors[0]
        if self.lost:
            warnings.warn(f"{self.lost[0]}: the others do its work", RuntimeWarning, stacklevel=2)
        return [self.answers[n] for n in range(len(self.arguments))]

    def _take(self, member: Member) -> None:
        name = f"{self.task.__module__}:{self.task.__qualname__}"
        try:
            if member.is_ready():
                while self.left:
                    self._do(lambda arrays: member.ask(name, arrays))
        except MemberLost:
            pass
        except BaseException as error:
            self.left.clear()
            with self.changed:
                self.errors.append(error)
                self.changed.notify_all()

    def _do(self, call: Callable[[Arrays], Arrays]) -> None:
        try:
            n = self.left.popleft()
        except IndexError:  # another thread took the last one
            return
        try:
            answer = call(self.arguments[n])
        except MemberLost as error:
            self.lost.append(error)
            self.left.append(n)
            raise
        with self.changed:
            self.answers[n] = answer
            self.changed.notify_all()


class Member:
    """The caller's end of one process."""

    def __init__(self):
        here = str(Path(__file__).resolve().parents[2])
        paths = [str(Path(path or ".").absolute()) for path in sys.path]
        paths += [here] * (here not in paths)
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", START_CODE, *paths],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, process_group=0,
        )  # fmt: skip
        self.ready: bool | None = None
        self.dismissed = False
        self._lock = threading.Lock()

    def is_ready(self) -> bool:
        """Wait until the member has started; False if it could not."""
        with self._lock:
            if self.ready is None:
                try:
                    self.ready = _receive(self.process.stdout) is not None
                except (OSError, ValueError):
                    self.ready = False
                if not self.ready and not self.dismissed:
                    _cannot_start[0] = os.getpid()
            return self.ready

    def ask(self, task: str, arrays: Arrays) -> Arrays:
        with self._lock:
            try:
                _send(self.process.stdin, {"task": np.array(task), **arrays})
                answer = _receive(self.process.stdout)
            except (OSError, ValueError):  # the process has ended, or `end` has closed the pipes
                answer = None
        if answer is None:
            code = self.process.wait()
            why = "was killed, as a rule for want of memory" if code == -9 else f"ended with code {code}"
            raise MemberLost(f"a process that checks games {why}")
        if "error" in answer:
            raise ERRORS.get(str(answer["error"]), RuntimeError)(str(answer["message"]))
        return answer

    def end(self) -> None:
        self.dismissed = True
        self.process.kill()
        self.process.wait()
        self._close()

    def disown(self) -> None:
        """Forget the member in a fork of the process that started it."""
        self.process.returncode = 0
        self._close()

    def _close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):  # raised if written data is left in the pipe
                pipe.close()  # type: ignore[union-attr]


# Seconds of work so far that could have been shared.
_seconds_seen = [0.0]
# The id of a process in which members cannot be started, so that it does not try again.
_cannot_start = [0]
# One thread at a time shares its work; others work alone.
_busy = threading.Lock()
_team: list[Member] = []
# The id of the process that started the members. A fork of it has none.
_owner = 0


def _can_start() -> bool:
    return bool(sys.executable) and not getattr(sys, "frozen", False) and _cannot_start[0] != os.getpid()


def _members(count: int = 0) -> list[Member]:
    """The running members, with new ones up to `count` if they can be started."""
    global _owner
    if _owner != os.getpid():
        for member in _team:
            member.disown()
        _team.clear()
        _owner = os.getpid()
    for member in [m for m in _team if m.ready is False or m.process.poll() is not None]:
        member.end()
        _team.remove(member)
    try:
        while len(_team) < count:
            _team.append(Member())
    except OSError:
        _cannot_start[0] = os.getpid()
    return _team[: count or None]


@atexit.register
def dismiss() -> None:
    """End all members at once."""
    for member in _members():
        member.end()
    _team.clear()


@ending.on_interrupt
def _kill() -> None:
    """End all members without waiting, as the handler of a signal must not wait."""
    for member in _team if _owner == os.getpid() else []:
        member.process.kill()


def serve(pipe: int) -> None:
    """The main loop of a member: report that it is ready, then answer requests until its input ends."""
    out = os.fdopen(pipe, "wb")
    requests: queue.SimpleQueue[Arrays] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    answer: Arrays = {}
    while True:
        try:
            _send(out, answer)
        except BrokenPipeError:
            os._exit(1)
        arrays = requests.get()
        module, name = str(arrays.pop("task")).split(":")
        try:
            answer = getattr(importlib.import_module(module), name)(arrays)
        except Exception as error:
            kind = next((c.__name__ for c in type(error).__mro__ if c.__name__ in ERRORS), "RuntimeError")
            answer = {"error": np.array(kind), "message": np.array(str(error))}


def _listen(requests: queue.SimpleQueue[Arrays]) -> None:
    """Read requests; end the process when the input ends, because no answer will be read."""
    try:
        while (arrays := _receive(sys.stdin.buffer)) is not None:
            requests.put(arrays)
    finally:
        os._exit(0)


def _send(pipe: Any, arrays: Arrays) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    pipe.write(MESSAGE_PREFIX + struct.pack("<q", buffer.tell()) + buffer.getvalue())
    pipe.flush()


def _receive(pipe: Any) -> Arrays | None:
    """The next message; None at the end of the pipe. Raises `ValueError` for data that is no message."""
    head = _read(pipe, len(MESSAGE_PREFIX) + 8)
    if head is None:
        return None
    if not head.startswith(MESSAGE_PREFIX):
        raise ValueError("no message of a member")
    body = _read(pipe, struct.unpack("<q", head[len(MESSAGE_PREFIX) :])[0])
    if body is None:
        return None
    with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
        return dict(arrays)


def _read(pipe: BinaryIO, count: int) -> bytes | None:
    found = pipe.read(count)
    return found if len(found) == count else None
