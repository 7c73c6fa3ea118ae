"""Work shared among processes of this machine, where much of it is Python, which threads keep waiting.

A member is a fresh interpreter that imports this package and nothing of the caller's: it neither forks nor runs the
caller's script again. It gets arrays and answers with arrays, as .npz bytes over its own pipes; nothing is pickled.
Members are started when there is work for seconds, stay for the next, and end when their pipe does, which is when the
caller ends, is killed or is interrupted; signals to the caller's process group do not reach them. The caller works
along, so that nobody waits for them to start; where none can be started it works alone.
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
PATIENCE = 0.2  # seconds between two looks at what the members have done
WORTH = 2.0  # seconds of work, in all, for which members are started: to start takes one so much of a core
ERRORS = {error.__name__: error for error in (ValueError, ArithmeticError, MemoryError, RuntimeError)}
# nobody else's words on the pipe, and the caller's own way to find packages
START = (
    "import os, sys; out = os.dup(1); os.dup2(2, 1); "
    "sys.path[:] = sys.argv[1:]; from emalign_jax.internal.processes import serve; serve(out)"
)
MARK = b"team"  # every message begins with it


def share(
    task: Callable[[Arrays], Arrays], arguments: list[Arrays], tell: Callable[[int], None] = lambda done: None
) -> list[Arrays]:
    """[task(a) for a in arguments], by as many processes as there are cores if it takes long.

    task: a function at the top of a module of this package, whose answer depends on its arrays alone.
    tell: called here now and then with how many are done.
    Raises what `task` raises anywhere. If a member is killed over its work or ends, the others do it, with a warning.
    """
    work = _Work(task, arguments, tell)
    if len(arguments) < 2 or cores() == 1 or not _able() or not _busy.acquire(blocking=False):
        return work.all([])
    try:
        if not _members():
            began = time.perf_counter()
            work.some(1)
            _seen[0] += len(arguments) * (time.perf_counter() - began)
            if _seen[0] < WORTH:
                return work.all([])
        return work.all(_members(min(cores(), len(work.left)) - 1))
    finally:
        _busy.release()


class MemberLost(Exception):
    """A member's process has ended."""


class _Work:
    def __init__(self, task, arguments: list[Arrays], tell):
        self.task, self.arguments, self.tell = task, arguments, tell
        self.left = deque(range(len(arguments)))
        self.answers: dict[int, Arrays] = {}
        self.errors: list[BaseException] = []
        self.lost: list[MemberLost] = []
        self.changed = threading.Condition()

    def some(self, most: int) -> None:
        """Do so many here."""
        while self.left and most and not self.errors:
            self._do(self.task)
            most -= 1
            self.tell(len(self.answers))

    def all(self, members: list[Member]) -> list[Arrays]:
        try:
            with contextlib.suppress(RuntimeError):  # no more threads can be started
                for member in members:
                    threading.Thread(target=self._take, args=(member,), daemon=True).start()
            while not self.errors and len(self.answers) < len(self.arguments):
                self.some(len(self.arguments))
                with self.changed:  # members that are still starting are not waited for
                    if not self.left and len(self.answers) < len(self.arguments):
                        self.changed.wait(PATIENCE)
                self.tell(len(self.answers))
        except BaseException:
            self.left.clear()
            if members:  # those that are there may work for another thread
                dismiss()  # they are in the middle of something that nobody will read
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
        except IndexError:  # another was faster
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
            [sys.executable, "-S", "-c", START, *paths],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, process_group=0,
        )  # fmt: skip
        self.ready: bool | None = None
        self.dismissed = False
        self._lock = threading.Lock()

    def is_ready(self) -> bool:
        """Wait until it has started; False if it could not, and the others do without it."""
        with self._lock:
            if self.ready is None:
                try:
                    self.ready = _receive(self.process.stdout) is not None
                except (OSError, ValueError):
                    self.ready = False
                if not self.ready and not self.dismissed:
                    _failed[0] = os.getpid()
            return self.ready

    def ask(self, task: str, arrays: Arrays) -> Arrays:
        with self._lock:
            try:
                _send(self.process.stdin, {"task": np.array(task), **arrays})
                answer = _receive(self.process.stdout)
            except (OSError, ValueError):  # ended, or closed by `end`
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
        """In a fork, whose parent it belongs to."""
        self.process.returncode = 0
        self._close()

    def _close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):  # something may be left in it
                pipe.close()  # type: ignore[union-attr]


_seen = [0.0]  # seconds of work that could have been shared, so far
_failed = [0]  # the process whose members cannot be started: not tried again there
_busy = threading.Lock()  # one thread shares its work at a time, others do theirs alone
_team: list[Member] = []
_owner = 0  # the process that started them: a fork of it has none


def _able() -> bool:
    return bool(sys.executable) and not getattr(sys, "frozen", False) and _failed[0] != os.getpid()


def _members(count: int = 0) -> list[Member]:
    """Those there are, and more to make up `count`, if they can be started."""
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
        _failed[0] = os.getpid()
    return _team[: count or None]


@atexit.register
def dismiss() -> None:
    """End all members at once."""
    for member in _members():
        member.end()
    _team.clear()


@ending.owe
def _kill() -> None:
    """End them without waiting, which a signal's handler must not."""
    for member in _team if _owner == os.getpid() else []:
        member.process.kill()


def serve(pipe: int) -> None:
    """What a member does: say that it is ready, then answer until its own input ends."""
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
    """Nobody is left to read an answer when the input ends, whatever is being done."""
    try:
        while (arrays := _receive(sys.stdin.buffer)) is not None:
            requests.put(arrays)
    finally:
        os._exit(0)


def _send(pipe: Any, arrays: Arrays) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    pipe.write(MARK + struct.pack("<q", buffer.tell()) + buffer.getvalue())
    pipe.flush()


def _receive(pipe: Any) -> Arrays | None:
    """None at the end of the pipe. Raises `ValueError` where something else is said."""
    head = _read(pipe, len(MARK) + 8)
    if head is None:
        return None
    if not head.startswith(MARK):
        raise ValueError("no message of a member")
    body = _read(pipe, struct.unpack("<q", head[len(MARK) :])[0])
    if body is None:
        return None
    with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
        return dict(arrays)


def _read(pipe: BinaryIO, count: int) -> bytes | None:
    found = pipe.read(count)
    return found if len(found) == count else None
