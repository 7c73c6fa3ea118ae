"""SIGINT, SIGTERM and SIGHUP at random moments, and SIGKILL: commands end with one line and leave nothing behind.

The moment is drawn from the time that the same command takes when it is not disturbed, counted from when it handles
signals, which is before it imports jax. Whatever the moment, what is checked must hold; on failure the draw is named.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.commands import ONE_THREAD
from support.kills import same

pytestmark = pytest.mark.host_only

KINDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRID = """
title = "Small"
block = 1
[games]
agents = 2
states = 2
actions = 2
count = 3
[solver]
method = "best_responses"
"""
TUNED = """
title = "Small"
[games]
agents = 2
states = 2
actions = 2
count = 1
held_out = 2
[tune]
steps = 3
[transfers]
start = "nothing"
"""
SEARCH = ("search", "--agents", "2", "--family", "hull", "--count", "2", "--set", "block=1", "--out")
ALIGN = ("align", "table.csv", "--id", "prompt", "--agents", "1,2", "--subsets", "2", "--out", "made")
# each with what it writes, which is there whole or not at all, and how many signals of each kind it gets nightly
JOBS = {
    "search": ((*SEARCH, "made"), "made", 14),
    "align": (ALIGN, "made", 15),
    "sweep": (("sweep", "grid.toml", "--out", "made"), "made", 8),
    "tune": (("tune", "tuned.toml", "--out", "made"), "made", 3),
    "certify": (("certify", "run/games.npz", "run/schemes.npz"), None, 20),
    "stability": (("stability", "run/games.npz", "--figure", "made.png"), "made.png", 20),
    "report": (("report", "run", "--out", "made.html"), "made.html", 20),
}
RUNS = ("search", "align", "sweep", "tune")  # what they have kept stays, and the same command goes on


@pytest.fixture(autouse=True)
def _hangups_are_not_ignored():
    """As they are under nohup, and children would inherit that."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def start(where, command):
    """The command in a session of its own, of which no process may be left."""
    return subprocess.Popen(
        [sys.executable, "-m", "emalign_jax", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, cwd=where, env=ONE_THREAD, start_new_session=True,
    )  # fmt: skip


def await_handlers(process):
    """Until it handles SIGTERM, which Python does not by itself, or has ended."""
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():  # another system than Linux
        time.sleep(0.5)
        return
    while process.poll() is None:
        caught = re.search(r"^SigCgt:\s*(\w+)", status.read_text(), re.M)
        if caught and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.002)


def strike(process, kinds, moment, group):
    """Send the first of the kinds at the moment, the others a little later, to the process or to its group."""
    await_handlers(process)
    time.sleep(moment)
    for kind in kinds:
        if process.poll() is None:
            (os.killpg if group else os.kill)(process.pid, kind)
        time.sleep(random.uniform(0, 0.02))
    return process.communicate(timeout=300)


def alive(session):
    """Processes of the session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(stat.parent.name)
    return found


def temporaries(where):
    return [str(path) for path in where.rglob(".*")]


def make_inputs(where, command):
    (where / "grid.toml").write_text(GRID)
    (where / "tuned.toml").write_text(TUNED)
    table = np.random.default_rng(0).normal(size=(12, 4))
    pd.DataFrame(table, columns=["human", "a", "b", "c"]).to_csv(where / "table.csv", index_label="prompt")
    if any(word.startswith("run") for word in command):
        process = start(where, (*SEARCH, "run"))
        assert (process.communicate()[1], process.returncode) == ("", 0)


class Case:
    """A command, its inputs, and what it does when it is not disturbed."""

    def __init__(self, name, folder):
        self.name, (self.command, self.writes, _) = name, JOBS[name]
        self.inputs, self.whole = folder / "inputs", folder / "whole"
        self.inputs.mkdir()
        make_inputs(self.inputs, self.command)
        shutil.copytree(self.inputs, self.whole)
        process = start(self.whole, self.command)
        await_handlers(process)
        began = time.monotonic()
        self.out, err = process.communicate()
        self.code, self.seconds = process.returncode, time.monotonic() - began
        assert (err, self.code in (0, 1), temporaries(self.whole)) == ("", True, [])

    def again(self, where):
        """The next run there ends like one that was never disturbed, and leaves no temporaries."""
        force = () if self.name in RUNS or self.writes is None else ("--force",)
        process = start(where, (*self.command, *force))
        _, err = process.communicate()
        assert (process.returncode, err) == (self.code, "")
        assert temporaries(where) == []
        self.check_whole(where)

    def check_whole(self, where):
        there = {path.name for path in self.inputs.iterdir()} | {self.writes} - {None}
        assert {path.name for path in where.iterdir()} == there
        if self.writes is not None:
            assert same(self.whole / self.writes, where / self.writes)

    def struck(self, where, kinds, share, group):
        """Run it, struck at this share of its time, and check what it leaves. Returns its exit code."""
        shutil.copytree(self.inputs, where)
        process = start(where, self.command)
        out, err = strike(process, kinds, share * self.seconds, group)
        code = process.returncode
        until = time.monotonic() + 60
        while Path("/proc").exists() and alive(process.pid) and time.monotonic() < until:
            time.sleep(0.05)
        assert not (Path("/proc").exists() and alive(process.pid))
        if kinds == (signal.SIGKILL,):
            assert (code, err) in ((self.code, ""), (-signal.SIGKILL, ""))
            self.again(where)
            return code
        if code == self.code or code in [-kind for kind in kinds]:  # it had ended, or all but the interpreter had
            assert (err, len(out.splitlines())) == ("", len(self.out.splitlines()))
            self.check_whole(where)
        else:
            assert code in [128 + kind for kind in kinds], (code, err)
            assert re.fullmatch("emalign: interrupted; .+\n", err), err
        assert temporaries(where) == []
        if self.name in RUNS:
            if (where / "made").exists() and json.loads((where / "made/manifest.json").read_text())["status"] != "done":
                assert list((where / "made/parts").iterdir()), "it is there for what was kept"
            self.again(where)
        elif self.writes is None or (where / self.writes).exists():
            self.check_whole(where)
        else:
            assert {path.name for path in where.iterdir()} == {path.name for path in self.inputs.iterdir()}
        return code


TEMPORARY = """
import os, signal, time
from pathlib import Path
{before}
from emalign_jax.internal import ending, temporary
ending.install_handlers()
with temporary.beside(Path("made")) as made, ending.interrupt_message(lambda: "all\\nis kept"):
    print("there", flush=True)
    {waits}
print("ended")
"""


def ended(tmp_path, *kinds, waits="os.read(0, 1)", before=""):
    """What a process does that has a temporary file and gets the signals while it waits, for input or longer."""
    with subprocess.Popen(
        [sys.executable, "-c", TEMPORARY.format(before=before, waits=waits)], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=ONE_THREAD,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "there\n"
        for kind in kinds:
            process.send_signal(kind)
            time.sleep(0.05)
        out, err = process.communicate(timeout=60)
    assert list(tmp_path.iterdir()) == []
    return process.returncode, out, err


SAID = "emalign: interrupted; all is kept\n"


@pytest.mark.parametrize("kind", KINDS)
def test_each_signal_has_its_code_and_nothing_is_left(tmp_path, kind):
    assert ended(tmp_path, kind) == (128 + kind, "", SAID)


@pytest.mark.slow
@pytest.mark.parametrize(
    "waits",
    [
        "while True:\n        try: time.sleep(1)\n        except BaseException: pass",  # libraries do
        "class Dropping:\n        def __del__(self): time.sleep(100)\n    Dropping()",
        "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)",  # C code that looks at no signals
        "from concurrent.futures import ThreadPoolExecutor\n"
        "    with ThreadPoolExecutor() as pool: pool.submit(time.sleep, 100)",
    ],
)
def test_nothing_keeps_a_signal_from_ending_it(tmp_path, waits):
    assert ended(tmp_path, signal.SIGTERM, waits=waits) == (143, "", SAID)


def test_signals_in_the_clean_up_begin_it_again(tmp_path):
    slow = "with ending.cleanup(lambda: os.read(0, 1)): time.sleep(100)"
    code, *said = ended(tmp_path, *KINDS, waits=slow)
    assert code in (129, 130, 143)
    assert said == ["", SAID]


def test_what_is_ignored_stays_ignored(tmp_path):
    """As nohup has it."""
    before = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    assert ended(tmp_path, signal.SIGHUP, before=before) == (0, "ended\n", "")


def few_and_many():
    """One signal a command, all of them behind the nightly marker, with tune, which compiles for long."""
    for name, (_, _, many) in JOBS.items():
        yield pytest.param(name, None, marks=pytest.mark.nightly if name == "tune" else ())
        yield pytest.param(name, many, marks=pytest.mark.nightly)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "many"), [*few_and_many()])
def test_signals_at_random_moments(tmp_path, name, many):
    case = Case(name, tmp_path)
    firsts = many * KINDS if many else [random.choice(KINDS)]
    codes = {kind.name: Counter() for kind in firsts}
    for number, first in enumerate(firsts):
        kinds = (first, *random.choices(KINDS, k=random.choice((0, 0, 1, 2))))
        share, group = random.random(), random.random() < 0.5
        try:
            code = case.struck(tmp_path / str(number), kinds, share, group)
        except AssertionError as error:
            error.add_note(f"{name}: {kinds} at {share:.4f} of {case.seconds:.2f} s, group {group}")
            raise
        codes[first.name][code] += 1
        shutil.rmtree(tmp_path / str(number))
    print(f"{name}: {case.seconds:.1f} s undisturbed; exit codes {codes}")


@pytest.mark.nightly
@pytest.mark.parametrize("name", JOBS)
def test_killed_at_random_moments(tmp_path, name):
    case = Case(name, tmp_path)
    for number in range(3):
        share = random.random()
        try:
            case.struck(tmp_path / str(number), (signal.SIGKILL,), share, False)
        except AssertionError as error:
            error.add_note(f"{name}: killed at {share:.4f} of {case.seconds:.2f} s")
            raise
