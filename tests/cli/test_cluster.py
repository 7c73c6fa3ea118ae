"""Searches whose blocks are computed by a cluster on this machine, of which processes are killed."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.cluster import LONGEST, Started, until
from support.commands import ENVIRONMENT
from support.kills import same

pytestmark = [pytest.mark.usefixtures("empty_directory"), pytest.mark.host_only, pytest.mark.slow]

NIGHTLY = os.environ.get("EMALIGN_NIGHTLY") == "1"
SEARCH = ("search", "--states", "2", "--actions", "2", "--family", "hull,noise", "--agents", "1,2", "--count", "6",
          "--set", "solver.method=best_responses", "--set", "block=1")  # fmt: skip
WORKER = ("--nworkers", "1", "--nthreads", "1")


def emalign(*words):
    command = [sys.executable, "-m", "emalign_jax", *SEARCH, *map(str, words)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def ends(process):
    _, err = process.communicate(timeout=3 * LONGEST)
    assert (err, process.returncode) == ("", 0)


def parts(folder):
    return len(list(Path(folder).glob("parts/*.parquet")))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run of one process."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    ends(emalign("--out", folder))
    return folder


@pytest.fixture
def cluster(tmp_path_factory):
    with Started(tmp_path_factory.mktemp("cluster")) as found:
        yield found


def test_a_cluster_writes_the_run_of_one_process_whoever_is_killed(cluster, whole):
    """A worker at a random moment, for which another comes, and the command itself, which is begun again."""
    drawn, workers = random.Random(), [cluster.workers(*WORKER) for _ in range(2)]
    for n in range(20 if NIGHTLY else 1):
        found = emalign("--out", f"run-{n}", "--cluster", cluster.address)
        after, client = drawn.randint(1, 12), n % 4 == 0
        until(lambda n=n, after=after, found=found: found.poll() is not None or parts(f"run-{n}") >= after)
        time.sleep(drawn.uniform(0, 0.3))
        if client:
            found.kill()
            found.communicate()
            found = emalign("--out", f"run-{n}", "--cluster", cluster.address)
        victim = workers.pop(0)
        victim.kill()
        workers.append(cluster.workers(*WORKER))
        ends(found)
        assert same(whole, Path(f"run-{n}")), (after, client)
