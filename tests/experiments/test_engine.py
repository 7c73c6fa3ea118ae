"""Blocks are computed once each, whoever computes them and whichever of them dies."""

import functools
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import types
import weakref
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ThreadPoolExecutor, wait
from pathlib import Path

import jax
import numpy as np
import psutil
import pytest
from support import engine_tasks
from support.cluster import LONGEST, WORKERS_SEE, Started, until

from emalign_jax.experiments import engine, executors
from emalign_jax.experiments.engine import Task
from emalign_jax.internal import plugins

pytestmark = pytest.mark.host_only


def squares(count):
    return [Task(f"block {n}", (n,)) for n in range(count)]


def kept(compute, tasks, source, **words):
    """{name: result} of a run that keeps each task once."""
    found = {}

    def keep(task, result):
        assert task.name not in found
        found[task.name] = result

    engine.run(compute, tasks, keep, executors=source, **words)
    return found


# here


def test_in_this_process_one_after_the_other():
    said = []
    found = kept(engine_tasks.square, squares(4), None, progress=lambda *counts: said.append(counts))
    assert list(found.items()) == [("block 0", 0), ("block 1", 1), ("block 2", 4), ("block 3", 9)]
    assert said == [(n, 4, None) for n in range(5)]
    assert kept(lambda n: n + 1, squares(2), None) == {"block 0": 1, "block 1": 2}  # called as it is


def test_errors_of_a_task_end_a_run_here():
    with pytest.raises(ValueError, match="expected another number"):
        kept(engine_tasks.refused, squares(4), None)


# an executor of one's own


@pytest.mark.parametrize("x64", [False, True])
def test_an_executor_of_ones_own(x64):
    with ThreadPoolExecutor(2) as pool, jax.enable_x64(x64):
        source = executors.given(pool)
        assert source.workers() == 2
        assert kept(engine_tasks.square, squares(20), source) == {f"block {n}": n * n for n in range(20)}
        found = kept(engine_tasks.surroundings, [Task("a", ())], source)
    assert found["a"]["float"] == ("float64" if x64 else "float32")
    assert found["a"]["process"] == os.getpid()


def test_errors_of_a_task_end_a_run_and_cancel_the_rest():
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(ValueError, match="expected another number") as raised:
            kept(engine_tasks.refused, squares(1000), executors.given(pool))
        assert "engine_tasks.py" in str(raised.value.__cause__)
        assert pool._work_queue.empty()


def test_errors_that_cannot_be_sent_are_told():
    with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="Unsendable: cannot be sent"):
        kept(engine_tasks.unsendable, [Task("a", ())], executors.given(pool))


def test_an_executor_of_ones_own_that_broke():
    pool = ThreadPoolExecutor(1)
    broken = Future()
    broken.set_exception(BrokenExecutor())
    pool.submit = lambda *_: broken
    with pytest.raises(OSError, match=r"the ThreadPoolExecutor is broken .+ with a new executor for the rest"):
        kept(engine_tasks.square, squares(2), executors.given(pool))


def test_functions_without_a_name_are_refused_before_any_work():
    with ThreadPoolExecutor(1) as pool, pytest.raises((pickle.PicklingError, AttributeError)):
        kept(lambda n: n, squares(2), executors.given(pool))


# what happens with processes, played through without any


class Pool(Executor):
    """Of two workers, of which one that computes a task named in `deadly` ends all."""

    def __init__(self, source):
        self.source, self.queue, self.broken = source, [], False

    def submit(self, call, packed):
        if self.broken:
            raise BrokenExecutor
        future = Future()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine, "_call", lambda compute, terms, arguments: arguments)
            (number,) = pickle.loads(packed)
        self.queue.append((future, functools.partial(call, packed), number))
        self.source.most = max(self.source.most, len(self.queue))
        return future

    def work(self):
        begun, self.queue = self.queue[:2], self.queue[2:]
        self.source.tried += [n for *_, n in begun]
        if any(self.source.deadly.get(n, 0) > 0 for *_, n in begun):
            for *_, n in begun:
                self.source.deadly[n] = self.source.deadly.get(n, 0) - 1
            self.broken = True
            for future, *_ in [*begun, *self.queue]:
                future.set_exception(BrokenExecutor())
            return
        for future, call, _ in begun:
            future.set_result(call())


class Played(executors.Executors):
    def __init__(self, monkeypatch, deadly=None):
        self.pool, self.deadly, self.most, self.tried, self.stops = None, dict(deadly or {}), 0, [], 0
        monkeypatch.setattr(engine, "wait", self.wait)

    def wait(self, futures, timeout, return_when):
        assert return_when == FIRST_COMPLETED
        if self.pool is not None and not self.pool.broken:
            self.pool.work()
        return wait(futures, timeout, return_when)

    def executor(self):
        if self.pool is None:
            self.pool = Pool(self)
        return self.pool

    def workers(self):
        return 2

    def drop(self, executor):
        if executor is self.pool:
            self.pool = None

    def stop(self):
        self.stops += 1


def test_few_tasks_are_under_way_and_results_are_forgotten(monkeypatch):
    source = Played(monkeypatch)
    results, alive = [], []

    def keep(task, result):
        results.append(weakref.ref(result))
        del result
        alive.append(sum(ref() is not None for ref in results))

    engine.run(np.zeros, squares(100), keep, executors=source)
    assert len(results) == 100
    assert source.most == 5  # two a worker, and one
    assert max(alive) <= 3
    assert source.stops == 0


def test_what_is_lost_is_computed_again(monkeypatch):
    source = Played(monkeypatch, {3: 1, 8: 2, 40: 1})
    assert kept(engine_tasks.square, squares(60), source) == {f"block {n}": n * n for n in range(60)}
    assert set(source.tried) == set(range(60))


def test_the_task_that_is_to_blame_is_named_and_all_others_are_done(monkeypatch):
    source, found = Played(monkeypatch, {7: 1000}), {}
    with pytest.raises(OSError, match=r"^block 7: its worker was lost 4 times .+ the same command goes on$"):
        engine.run(
            engine_tasks.square, squares(30), lambda task, result: found.update({task.name: result}), executors=source
        )
    assert found == {f"block {n}": n * n for n in range(30) if n != 7}
    assert source.tried.count(7) == engine.RETRIES + 1
    assert source.stops == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_whatever_ends_a_run_ends_what_is_under_way(monkeypatch, error):
    source = Played(monkeypatch)

    def keep(task, result):
        raise error

    with pytest.raises(error):
        engine.run(engine_tasks.square, squares(30), keep, executors=source)
    assert source.stops == 1
    assert len(source.tried) == 2
    assert source.pool.queue
    assert all(future.cancelled() for future, *_ in source.pool.queue)


def test_a_run_waits_for_the_first_worker(monkeypatch):
    source, said = Played(monkeypatch), []
    counts = iter([0, 0, 2])
    monkeypatch.setattr(source, "workers", lambda: next(counts, 2))
    monkeypatch.setattr(engine, "POLL", 0.001)
    assert len(kept(engine_tasks.square, squares(3), source, progress=lambda *x: said.append(x))) == 3
    assert said == [(0, 3, 0), (0, 3, 2), (1, 3, 2), (2, 3, 2), (3, 3, 2)]


# options


def test_what_options_ask_for():
    with executors.chosen(1, None) as source:
        assert source is None
    with executors.chosen(3, None) as source:
        assert source.workers() == 3
    with pytest.raises(ValueError, match=r"^--workers: expected at least 1 and at most .*, got 0$"):
        executors.chosen(0, None)
    with pytest.raises(ValueError, match=r"^--workers, --cluster: "):
        executors.chosen(2, "tcp://localhost:8786")
    with pytest.raises(ValueError, match=r"^workers: expected an integer >= 1, got 0$"):
        executors.local(0)


def test_processes_share_the_cores(monkeypatch):
    monkeypatch.setattr(executors, "cores", lambda: 8)
    assert {n: executors._environment(n)["PJRT_NPROC"] for n in (1, 3, 8, 20)} == {1: "8", 3: "2", 8: "1", 20: "1"}


def test_cores_obey_the_variable_of_xla(monkeypatch):
    from emalign_jax.internal import processors

    monkeypatch.delenv("PJRT_NPROC", raising=False)
    all_of_them = processors.cores()
    for text, count in {"1": 1, "100000": all_of_them, "": all_of_them, "0": all_of_them, "x": all_of_them}.items():
        monkeypatch.setenv("PJRT_NPROC", text)
        assert processors.cores() == count


def test_versions_are_compared():
    here = engine.versions()
    engine.check_versions(here)
    with pytest.raises(ValueError, match=rf"^--cluster: the worker on .+ has jax {jax.__version__}, .+ has 0\.1; "):
        engine.check_versions(here | {"jax": "0.1"})


# processes of this machine


@pytest.fixture(scope="module")
def processes():
    with engine.local(2) as source:
        yield source


@pytest.mark.slow
def test_processes_compute_the_same(processes):
    said = []
    found = kept(engine_tasks.square, squares(30), processes, progress=lambda *counts: said.append(counts))
    assert found == kept(engine_tasks.square, squares(30), None)
    assert said == [(n, 30, 2) for n in range(31)]
    (there,) = kept(engine_tasks.surroundings, [Task("a", ())], processes).values()
    assert there["process"] != os.getpid()
    assert there["float"] == str(jax.numpy.ones(()).dtype)
    assert set(there["variables"].values()) == {str(max(1, len(os.sched_getaffinity(0)) // 2))}
    assert there["cache"]


@pytest.mark.slow
def test_a_killed_process_loses_nothing(processes, tmp_path):
    tasks = [Task(f"block {n}", (str(tmp_path), n, int(n in (2, 9)))) for n in range(12)]
    assert kept(engine_tasks.killed, tasks, processes) == {f"block {n}": n * n for n in range(12)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2-0", "9-0"]


@pytest.mark.slow
def test_a_task_that_always_kills_is_given_up(processes, tmp_path):
    found = {}
    tasks = [Task(f"block {n}", (str(tmp_path), n, 99 if n == 1 else 0)) for n in range(6)]
    with pytest.raises(OSError, match=r"^block 1: its worker was lost 4 times \(TerminatedWorkerError\)"):
        engine.run(
            engine_tasks.killed, tasks, lambda task, result: found.update({task.name: result}), executors=processes
        )
    assert found == {f"block {n}": n * n for n in range(6) if n != 1}
    assert len(list(tmp_path.iterdir())) == engine.RETRIES + 1
    assert kept(engine_tasks.square, squares(3), processes) == {"block 0": 0, "block 1": 1, "block 2": 4}


@pytest.mark.slow
def test_errors_in_processes_are_raised_here(processes):
    with pytest.raises(ValueError, match=r"^count: expected another number$"):
        kept(engine_tasks.refused, squares(50), processes)


@pytest.mark.slow
def test_plugins_are_sent(tmp_path, monkeypatch):
    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "sent_helping.py").write_text("# häufig\nNUMBER = 41\n", "utf-8")
    (tmp_path / "sent_plugin.py").write_text(
        "import sent_helping\n\ndef answer():\n    return sent_helping.NUMBER + 1\n\ndef fault():\n    return 1 / 0\n"
    )
    try:
        digests = plugins.load([tmp_path / "sent_plugin.py"])
        assert sorted(plugins.sources().files) == ["sent_helping.py", "sent_plugin.py"]
        for file in ("sent_helping.py", "sent_plugin.py"):
            (tmp_path / file).write_text("raise AssertionError")  # nobody is to read them there
        with engine.local(1) as source:
            found = kept(engine_tasks.plugged, [Task(f"block {n}", ("sent_plugin",)) for n in range(6)], source)
            assert list(found.values()) == [(digests, 42)] * 6
            with pytest.raises(ZeroDivisionError) as raised:
                kept(engine_tasks.faulty, [Task("a", ("sent_plugin",))], source)
            assert plugins.line_of(raised.value) == "sent_plugin.py, line 7"
        with engine.local(1) as source:
            kept(engine_tasks.square, squares(1), source)
            (tmp_path / "sent_plugin.py").write_text("")
            assert plugins.load([tmp_path / "sent_plugin.py"]) != digests
            with pytest.raises(ValueError, match=r"another sent_plugin\.py.*; start the workers again"):
                kept(engine_tasks.square, squares(1), source)
    finally:
        for name in ("sent_helping", "sent_plugin"):
            sys.modules.pop(name, None)


AT_WORK = """
import sys
from emalign_jax.experiments import engine
from emalign_jax.internal import ending
from support import engine_tasks
ending.install_handlers()
with engine.local(2) as source:
    engine.run(engine_tasks.begun, [engine.Task(str(n), (sys.argv[1],)) for n in range(9)], print, executors=source)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_the_one_that_started_them(number, tmp_path):
    client = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", AT_WORK, str(tmp_path)],
        env=WORKERS_SEE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    until(lambda: len(list(tmp_path.iterdir())) == 2)
    if number == signal.SIGINT:
        os.killpg(client.pid, number)  # as Ctrl-C does
    else:
        client.send_signal(number)
    _, err = client.communicate()
    if number != signal.SIGKILL:
        assert client.returncode == 128 + number
        assert err.startswith("emalign: interrupted; nothing half-written is left\n")
        assert "Traceback" not in err
    for path in tmp_path.iterdir():
        until(functools.partial(ended, path))


def ended(path):
    try:
        return psutil.Process(int(path.name.removeprefix("begun-"))).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# a cluster


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    with Started(tmp_path_factory.mktemp("cluster")) as found:
        found.workers("--nworkers", "2", "--nthreads", "1")
        yield found


@pytest.fixture
def dask(started):
    with engine.cluster(started.address) as source:
        until(lambda: source.workers() == 2)
        yield source


@pytest.mark.slow
def test_a_cluster_computes_the_same(dask, started):
    said = []
    found = kept(engine_tasks.square, squares(30), dask, progress=lambda *counts: said.append(counts))
    assert found == kept(engine_tasks.square, squares(30), None)
    assert said[-1] == (30, 30, 2)
    (there,) = kept(engine_tasks.surroundings, [Task("a", ())], dask).values()
    assert there["process"] != os.getpid()
    assert there["float"] == str(jax.numpy.ones(()).dtype)
    with engine.cluster(str(started.file)) as source:
        assert kept(engine_tasks.square, squares(3), source) == {"block 0": 0, "block 1": 1, "block 2": 4}


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(dask, tmp_path):
    tasks = [Task(f"block {n}", (str(tmp_path), n, int(n in (2, 9)))) for n in range(12)]
    assert kept(engine_tasks.killed, tasks, dask) == {f"block {n}": n * n for n in range(12)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2-0", "9-0"]


@pytest.mark.slow
def test_what_dask_gives_up_is_tried_again(dask, tmp_path):
    """By default Dask does after four workers."""
    tasks = [Task(f"block {n}", (str(tmp_path), n, 5 if n == 2 else 0)) for n in range(4)]
    assert kept(engine_tasks.killed, tasks, dask) == {f"block {n}": n * n for n in range(4)}
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.slow
def test_errors_at_a_cluster_are_raised_here(dask):
    with pytest.raises(ValueError, match=r"^count: expected another number$"):
        kept(engine_tasks.refused, squares(50), dask)


@pytest.mark.slow
def test_workers_of_other_versions_are_refused(dask, monkeypatch):
    other = engine.versions() | {"numpy": "1.0"}
    monkeypatch.setattr(engine, "versions", lambda: other)
    with pytest.raises(ValueError, match=rf"has numpy {np.__version__}, this command has 1\.0; install the same"):
        kept(engine_tasks.square, squares(3), dask)


@pytest.mark.slow
def test_workers_without_the_package_are_refused(dask, monkeypatch):
    gone = types.ModuleType("gone")  # is there where the command runs, and not at workers
    exec("def call(): pass", gone.__dict__)
    monkeypatch.setitem(sys.modules, "gone", gone)
    monkeypatch.setattr(engine._Call, "__reduce__", lambda self: (gone.call, ()))
    with pytest.raises(
        ValueError, match=r"^--cluster: a worker has another emalign-jax, or none: No module named 'gone'$"
    ):
        kept(engine_tasks.square, squares(3), dask)


@pytest.mark.slow
def test_a_gpu_has_one_task(started, dask, monkeypatch):
    worker = started.workers("--nworkers", "1", "--nthreads", "4", "--no-nanny", "--resources", "GPU=1")
    until(lambda: dask.workers() == 1)  # for so many tasks at once
    asked, submit = [], dask._client.submit
    monkeypatch.setattr(dask._client, "submit", lambda *x, **words: asked.append(words) or submit(*x, **words))
    found = kept(engine_tasks.surroundings, [Task(f"block {n}", ()) for n in range(8)], dask)
    assert asked == [{"pure": False, "resources": {"GPU": 1}}] * 8
    assert {there["process"] for there in found.values()} == {worker.pid}
    started.end(worker)


@pytest.mark.slow
def test_a_scheduler_that_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "PAUSES", (0.1, 0.1))
    monkeypatch.setattr(executors, "TIMEOUT", 0.5)
    found = {}
    with Started(tmp_path) as own:
        own.workers("--nworkers", "1", "--nthreads", "1", "--no-nanny")
        monkeypatch.setattr(executors, "TIMEOUT", 60.0)

        def keep(task, result):
            found[task.name] = result
            if len(found) == 5:
                for process in own.running:
                    process.kill()
                    process.wait()

        lost = rf"^--cluster: the scheduler at {own.address} is lost; .+ goes on$"
        with engine.cluster(own.address) as source:
            monkeypatch.setattr(executors, "TIMEOUT", 0.5)
            source._client._timeout = 0.5
            with pytest.raises(OSError, match=lost):
                engine.run(engine_tasks.square, squares(50), keep, executors=source)
    assert len(found) >= 5
    assert all(found[f"block {n}"] == n * n for n in range(5))


ADDRESSES = """
import sys
from emalign_jax.experiments import engine, executors
executors.TIMEOUT = 0.5
for address in sys.argv[1:]:
    try:
        with engine.cluster(address):
            pass
    except ValueError as error:
        print(error)
"""


@pytest.mark.slow
def test_addresses_where_no_scheduler_is(tmp_path):
    (tmp_path / "empty.json").write_text("{}")
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        silent = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        wrong = ["nonsense:::", "nonsense", "http://x:1", "tls://127.0.0.1:1", str(tmp_path / "empty.json")]
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", ADDRESSES, silent, *wrong],
            env=WORKERS_SEE, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.stderr == ""
    first, *rest = done.stdout.splitlines()
    assert first == (f"--cluster: {silent}: no scheduler answers there within 0.5 s; start one with `dask scheduler`")
    assert len(rest) == len(wrong)
    for address, line in zip(wrong, rest, strict=True):
        assert line.startswith(f"--cluster: {address}: expected an address such as tcp://HOST:8786")


def test_dask_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=r"^--cluster: needs Dask: pip install 'emalign-jax\[cluster\]'$"):
        engine.cluster("tcp://127.0.0.1:1")


COMMANDS = {
    "dask": f'exec "{sys.executable}" -m dask "$@"',
    "srun": 'while [ "$1" != dask ]; do shift; done; echo "$@" >> asked; exec "$@"',
    "emalign": f'exec "{sys.executable}" emalign.py "$@"',
}
SEARCH = """
import sys
from emalign_jax.experiments import engine
from support import engine_tasks
assert sys.argv[1] == "search"
with engine.cluster(sys.argv[sys.argv.index("--cluster") + 1]) as source:
    engine.run(engine_tasks.square, [engine.Task("a", (7,))], lambda task, result: print(result), executors=source)
    print(source.workers())
"""


@pytest.mark.slow
def test_the_job_script_of_the_guide_runs(tmp_path):
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "cluster.md").read_text("utf-8")
    (script,) = re.findall(r"```bash\n(.*?)```", guide, re.S)
    for name, text in COMMANDS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "emalign.py").write_text(SEARCH)
    slurm = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7", "TMPDIR": str(tmp_path)}
    path = os.pathsep.join([str(tmp_path), WORKERS_SEE["PATH"]])
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=WORKERS_SEE | slurm | {"PATH": path}, timeout=2 * LONGEST,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.split()) == (0, ["49", "1"])
    assert (tmp_path / "asked").read_text().startswith("dask worker")
    assert not (tmp_path / "scheduler-7.json").exists()
