"""Checks shared among processes: the same numbers, the same errors, nothing left behind, no script run twice."""

import os
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
from support.commands import ENVIRONMENT

import emalign_jax as em
from emalign_jax.exact.checks import pooled_groups
from emalign_jax.exact.checks.base import make_check
from emalign_jax.internal import processes

pytestmark = pytest.mark.host_only

TASK = "emalign_jax.exact.checks.pooled_groups:respond"


def profiles(count, agents=2, features=2, seed=0):
    games = em.random_games(jax.random.key(seed), count, agents=agents, states=features)
    rng = np.random.default_rng(seed)
    return games, rng.dirichlet(np.ones(features), (count, agents, features))


def arrays(user, count=3):
    games, schemes = profiles(count)
    reduced = em.reduce_game(games, np)
    checks = [make_check(reduced, k, em.Pooled(), user) for k in range(count)]
    terms = {"bracket": np.array(1e-4), "gains": np.array(1.0)}
    return pooled_groups._pack(checks, list(schemes)) | terms


@pytest.mark.parametrize("user", [em.QuantalUser(10.0), em.RationalUser("lowest")], ids=["quantal", "rational"])
def test_a_game_is_checked_alike_in_any_company(user):
    games, schemes = profiles(pooled_groups.GROUP + 5)
    together = em.certify(games, schemes, em.Pooled(), user)
    for k in (0, 7, pooled_groups.GROUP + 4):
        alone = em.certify(games[k], schemes[k], em.Pooled(), user)
        for name, value in alone._asdict().items():
            np.testing.assert_allclose(getattr(together, name)[k], value, rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.slow
def test_a_member_answers_as_the_caller_would_until_it_is_killed():
    member = processes.Member()
    try:
        assert member.is_ready()
        for user in (em.RationalUser("lowest"), em.RationalUser()):
            asked = arrays(user)
            here, there = pooled_groups.respond(asked), member.ask(TASK, asked)
            assert here.keys() == there.keys()
            for name in here:
                np.testing.assert_array_equal(here[name], there[name])
        broken = asked | {"user": np.full_like(asked["user"], np.inf)}
        with np.errstate(all="ignore"), pytest.raises(ValueError, match="finite") as mine:
            pooled_groups.respond(broken)
        with pytest.raises(ValueError) as its:
            member.ask(TASK, broken)
        assert str(its.value) == str(mine.value)
        member.process.kill()
        with pytest.raises(processes.MemberLost, match="was killed"):
            member.ask(TASK, asked)
    finally:
        member.end()


class Fake(processes.Member):
    """A member that is `late` to start, then does the work here, or fails."""

    def __init__(self, late=0.0, starts=True, error=None):
        self.late, self.starts, self.error, self.done = late, starts, error, 0

    def is_ready(self):
        time.sleep(self.late)
        return self.starts

    def ask(self, name, asked):
        self.done += 1
        if self.error:
            raise self.error
        return double(asked)


def double(asked):
    time.sleep(0.005)
    return {"x": np.asarray(2 * asked["x"])}


@pytest.mark.parametrize("members", [[], [Fake(), Fake()], [Fake(starts=False), Fake(late=20.0)]])
def test_answers_come_in_order_from_any_member(monkeypatch, members):
    here, quick = threading.current_thread(), [m for m in members if m.starts and not m.late]

    def double_late(asked):  # the caller waits until every member has done something
        until = time.monotonic() + 15
        while threading.current_thread() is here and not all(m.done for m in quick) and time.monotonic() < until:
            time.sleep(0.01)
        return double(asked)

    monkeypatch.setattr(processes, "LEAST_WORK", 0.0)
    monkeypatch.setattr(processes, "cores", lambda: 1 + len(members))
    monkeypatch.setattr(processes, "_members", lambda count=0: members)
    began = time.perf_counter()
    answers = processes.share(double_late, [{"x": np.array(n)} for n in range(30)])
    assert [int(a["x"]) for a in answers] == list(range(0, 60, 2))
    assert time.perf_counter() - began < 15  # the others do not wait for a late one
    assert all(m.done for m in quick)


def test_what_a_lost_member_was_doing_is_done_by_another(monkeypatch):
    monkeypatch.setattr(processes, "LEAST_WORK", 0.0)
    monkeypatch.setattr(processes, "cores", lambda: 2)
    lost = Fake(error=processes.MemberLost("killed"))
    monkeypatch.setattr(processes, "_members", lambda count=0: [lost])
    with pytest.warns(RuntimeWarning, match="killed: the others do its work"):
        answers = processes.share(double, [{"x": np.array(n)} for n in range(100)])
    assert [int(a["x"]) for a in answers] == list(range(0, 200, 2))
    assert lost.done == 1


def test_the_error_of_a_member_is_the_callers(monkeypatch):
    monkeypatch.setattr(processes, "LEAST_WORK", 0.0)
    monkeypatch.setattr(processes, "cores", lambda: 2)
    monkeypatch.setattr(processes, "_members", lambda count=0: [Fake(error=ValueError("x: no"))] if count else [])
    with pytest.raises(ValueError, match="x: no"):
        processes.share(double, [{"x": np.array(n)} for n in range(30)])


def test_a_caller_without_members_dismisses_none(monkeypatch):
    def fails(done):
        raise OSError("no")

    monkeypatch.setattr(processes, "dismiss", lambda: pytest.fail("the members work for another thread"))
    with processes._busy, pytest.raises(OSError, match="no"):
        processes.share(double, [{"x": np.array(n)} for n in range(3)], fails)


@pytest.mark.parametrize("interpreter", ["/bin/echo", "/nonexistent/python"])
def test_without_members_the_caller_works_alone(monkeypatch, interpreter):
    monkeypatch.setattr(processes, "LEAST_WORK", 0.0)
    monkeypatch.setattr(processes, "cores", lambda: 3)
    monkeypatch.setattr(processes, "_team", [])
    monkeypatch.setattr(processes, "_cannot_start", [0])
    monkeypatch.setattr(sys, "executable", interpreter)
    for _ in range(2):
        answers = processes.share(double, [{"x": np.array(n)} for n in range(30)])
        assert [int(a["x"]) for a in answers] == list(range(0, 60, 2))
    assert not processes._can_start(), "not tried again"
    processes.dismiss()


SCRIPT = """
import sys
import jax, numpy as np
import emalign_jax as em
from emalign_jax.internal import processes
print("script")
processes.LEAST_WORK, processes.cores = 0.0, lambda: 2
member = processes._members(1)[0]
assert member.is_ready()
games = em.random_games(jax.random.key(0), 80, agents=2, states=2)
schemes = np.random.default_rng(0).dirichlet(np.ones(2), (80, 2, 2))
assert em.certify(games, schemes, em.Pooled(), em.RationalUser()).closed.all()
print(member.process.pid)
"""


@pytest.mark.slow
def test_a_script_without_a_guard_runs_once_and_leaves_no_process(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    ended = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=120, env=ENVIRONMENT)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.split()
    assert lines[0] == "script"
    assert len(lines) == 2
    with pytest.raises(ProcessLookupError):
        os.kill(int(lines[1]), 0)


STRUCK = """
import time
from emalign_jax.internal import ending, processes
ending.install_handlers()
member = processes._members(1)[0]
if {ready}:
    assert member.is_ready()
print("there", flush=True)
time.sleep(100)
"""


@pytest.mark.slow
@pytest.mark.parametrize("ready", [False, True], ids=["starting", "ready"])
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_group_leaves_no_member_and_no_traceback(kind, ready):
    with subprocess.Popen(
        [sys.executable, "-c", STRUCK.format(ready=ready)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=ENVIRONMENT, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "there\n"
        os.killpg(process.pid, kind)
        _, err = process.communicate(timeout=60)  # a member that lives would keep the pipe open
    killed = kind == signal.SIGKILL
    assert process.returncode == (-kind if killed else 128 + kind)
    assert err == ("" if killed else "emalign: interrupted; nothing half-written is left\n")
