"""Blocks, devices, hosts: whatever the work is cut into, the results are the same, and memory holds one piece."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import optax
import pandas as pd
import pytest
from support.commands import ENVIRONMENT, child, refused

import emalign_jax as em
from emalign_jax.exact.checks import selection_rational
from emalign_jax.exact.obedience import frontier
from emalign_jax.experiments.search import hosts, job
from emalign_jax.internal import memory
from emalign_jax.lp import choice

SMALL = ["--family", "noise", "--agents", "1,2", "--count", "5", "--states", "3"]


def environment():
    x64 = str(int(jax.config.jax_enable_x64))  # games are of the same dtype then
    return ENVIRONMENT | {"JAX_ENABLE_X64": x64}


def same_run(one, two):
    """But for seconds, to the bit: float32 play in the same lanes and tiles, float64 checks game by game."""
    a, b = (pd.read_parquet(path / "games.parquet").drop(columns="seconds") for path in (one, two))
    pd.testing.assert_frame_equal(a, b, check_exact=True)
    for name in ("games.npz", "schemes.npz"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    return a


@pytest.mark.slow
def test_blocks_do_not_matter(run, few, tmp_path):
    lines = []
    for name, block in (("whole", 100), ("blocks", 2)):
        code, out, _ = run("search", *SMALL, "--starts", "2", "--block", block, "--out", tmp_path / name)
        assert code == 0
        lines.append([line.split()[:-1] for line in out.splitlines() if "%" in line])
    assert lines[0] == lines[1], "the printed table"
    rows = same_run(tmp_path / "whole", tmp_path / "blocks")
    assert list(rows["game"]) == [n for _ in range(2) for n in range(5) for _ in range(2)]
    schemes = em.load_schemes(tmp_path / "blocks" / "schemes.npz", agents=2)
    assert schemes.shape[:3] == (2, 5, 2), "starts lead, then the games"
    games = em.load_games(tmp_path / "blocks" / "games.npz", agents=2)
    again = em.certify(games, schemes, em.Selection(), em.RationalUser())
    ours = rows[rows["agents"] == 2]["user_value"].to_numpy().reshape(5, 2).T
    np.testing.assert_allclose(again.user, ours, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_games_and_starts_are_those_of_the_whole_batch():
    key, sizes = jax.random.key(3), {"agents": 2, "states": 3, "information_worth": 0.1}
    whole, part = em.random_games(key, 600, **sizes), em.random_games(key, 40, first=530, **sizes)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(part), strict=True):
        np.testing.assert_array_equal(a[530:570], b)
    arguments = {"key": key, "verify": False}
    solver = em.GradientPlay(steps=100)
    all_of_them = em.solve(whole, em.Pooled(), em.QuantalUser(20.0), solver, **arguments)
    some = em.solve(part, em.Pooled(), em.QuantalUser(20.0), solver, first=530, **arguments)
    np.testing.assert_array_equal(all_of_them.schemes[530:570], some.schemes)


@pytest.mark.slow
def test_the_number_of_games_compiles_nothing_anew():
    traced = []

    def update(gradient, state, params=None):
        traced.append(1)
        return gradient, state

    solver = em.GradientPlay(optimizer=optax.GradientTransformation(lambda p: optax.EmptyState(), update), steps=100)
    games = em.random_games(jax.random.key(0), 700, agents=1, states=2, actions=2)
    counts = []
    for many in (3, 40, 700):
        em.solve(games[:many], em.Pooled(), em.QuantalUser(5.0), solver, key=jax.random.key(0), verify=False)
        counts.append(len(traced))
    assert counts[0] > 0
    assert counts == counts[:1] * 3


@pytest.mark.slow
def test_unverified_runs_say_so(run, tmp_path):
    pooled = ["--protocol", "pooled", "--precision", "20", *SMALL, "--family", "hull", "--agents", "2"]
    code, out, _ = run("search", *pooled, "--no-verify", "--out", tmp_path / "run")
    assert code == 0
    assert "not checked" in out
    assert "Not verified" in out
    rows = pd.read_parquet(tmp_path / "run" / "games.parquet")
    assert set(rows["result"]) == {"UNCHECKED"}
    assert not rows["ok"].any()
    assert rows["relative_gain"].isna().all()
    games = em.load_games(tmp_path / "run" / "games.npz")
    exact = em.certify(games, em.load_schemes(tmp_path / "run" / "schemes.npz"), em.Pooled(), em.QuantalUser(20.0))
    np.testing.assert_allclose(rows["no_information"], exact.no_information, rtol=0, atol=1e-12)
    np.testing.assert_allclose(rows["full_information"], exact.full_information, rtol=0, atol=1e-12)
    np.testing.assert_allclose(rows["user_value"], exact.user, rtol=0, atol=1e-5)  # float32 payoffs
    code, out, _ = run("search", *pooled, "--no-verify", "--json", "--out", tmp_path / "json")
    document = json.loads(out)
    assert document["summary"]["unchecked"] == 5
    assert document["games"][0]["gain_lower"] == [None, None]


def test_the_block_fits_the_memory_at_hand():
    assert job.block_size(True, free=8 * 2**30) == job.block_size(True, free=8 * 2**30 + 1)
    for verify, need in ((True, job.BYTES_CHECKED), (False, job.BYTES_PLAYED)):
        sizes = [job.block_size(verify, free=2**n) for n in range(28, 40)]
        assert sizes == sorted(sizes)
        assert sizes[-1] == (job.MOST_CHECKED if verify else job.MOST_PLAYED)
        assert all(size * need <= 2**n or size == job.SMALLEST for n, size in zip(range(28, 40), sizes, strict=True))
    assert memory.free_bytes() > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--hosts", "2"], ["--hosts", "all three"]),
        (["--hosts", "2", "--host", "2", "--coordinator", "a:1", "--out", "r"], ["--host", "0 to 1"]),
        (["--hosts", "2", "--host", "0", "--coordinator", "a", "--out", "r"], ["--coordinator", "ADDRESS:PORT"]),
        (["--hosts", "2", "--host", "0", "--coordinator", "a:1"], ["--out", "needed"]),
        (["--distributed", "--host", "0"], ["--distributed", "leave out"]),
        (["--no-verify", "--method", "best_responses"], ["--no-verify", "play"]),
    ],
)
def test_bad_options(run, arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused(run("search", *SMALL, *arguments), *words)


DEVICES = """
import os, threading
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
import jax, numpy as np
import emalign_jax as em
from emalign_jax.internal import memory
from emalign_jax.play import gradient_play, tiles
games = em.random_games(jax.random.key(0), 200, agents=1, states=2, actions=2)
tiles.CACHED_CELLS = 16 * em.Pooled().cells(games, 2)  # tiles of 16: 13 of them
def play(**given):
    solver = em.GradientPlay(steps=200, chunk=50)
    return em.solve(games, em.Pooled(), em.QuantalUser(20.0), solver, key=jax.random.key(0), verify=False).schemes
advance, take = gradient_play.advance, tiles.Queue.take
def spy_advance(solver, game, *rest):
    out = advance(solver, game, *rest)
    (device,) = out[1].schemes.devices()
    used.add(device.id)
    if device.id == stuck:  # until the others have taken all that is left
        assert empty.wait(100), taken
    return out
def spy_take(queue, count):
    out, device = take(queue, count), jax.config.jax_default_device.id
    first = device not in taken
    taken[device] = taken.get(device, 0) + len(out)
    if first:
        started.wait(100)  # no device takes a second tile before each has one
    if not len(out):
        empty.set()
    return out
gradient_play.advance, tiles.Queue.take = spy_advance, spy_take
def start(slow):
    global used, taken, empty, started, stuck
    used, taken, empty, started, stuck = set(), {}, threading.Event(), threading.Barrier(8), slow
    return play()
eight = start(None)
assert used == set(range(8)), used
assert sum(taken.values()) == 200, taken
again = start(3)
assert taken[3] == 16, taken
np.testing.assert_array_equal(again, eight)
tiles.Queue.take, devices = take, jax.local_devices()
jax.local_devices = lambda *a, **k: devices[:1]
used.clear()
stuck = None
np.testing.assert_array_equal(play(), eight)
assert used == {0}
print("same")
"""


@pytest.mark.slow
def test_eight_devices_share_the_tiles_and_a_slow_one_holds_up_no_other():
    assert child(DEVICES).endswith("same\n")


def host(number, port, out, *more, before=""):
    code = f"from emalign_jax.experiments.search import hosts; {before}\nfrom emalign_jax.cli import main; main()"
    arguments = ["search", *SMALL, "--block", "2", "--out", out, "--hosts", "2", "--host", number, *more]
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments), "--coordinator", f"127.0.0.1:{port}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_two_processes_write_the_run_of_one(run, tmp_path):
    port = free_port()
    both = [host(n, port, tmp_path / "both") for n in range(2)]
    (first, _), (second, told) = (process.communicate(timeout=120) for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert "10 games" in first
    assert second == ""
    assert "did" in told
    assert run("search", *SMALL, "--out", tmp_path / "one")[0] == 0
    same_run(tmp_path / "one", tmp_path / "both")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["both", "one"]
    # options that differ are refused by both
    both = [host(n, port, tmp_path / "other", "--seed", n) for n in range(2)]
    for process in both:
        out, err = process.communicate(timeout=120)
        assert refused((process.returncode, out, err), "same options")


@pytest.mark.slow
@pytest.mark.parametrize("dead", [0, pytest.param(1, marks=pytest.mark.nightly)])
def test_when_a_host_dies_the_other_ends_with_one_line(tmp_path, dead):
    port = free_port()
    quick = "hosts.SILENCE = 10"
    stuck = f"{quick}; import time; from emalign_jax.experiments.search import parts"
    stuck += "; parts.write = lambda *a: time.sleep(100)"
    both = [host(n, port, tmp_path / "run", before=stuck if n == dead else quick) for n in range(2)]
    until = time.monotonic() + 100
    while not list(tmp_path.glob(f".run.*/alive-{dead}")) and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(1)
    both[dead].send_signal(signal.SIGKILL)
    both[dead].communicate(timeout=60)
    out, err = both[1 - dead].communicate(timeout=60)
    assert refused((both[1 - dead].returncode, out, err), f"host {dead} gave no sign of life")
    assert list(tmp_path.iterdir()) == [], "nothing half-written, and no temporary"


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, pytest.param(1, marks=pytest.mark.nightly)])
def test_a_host_that_stays_alone_ends_with_one_line(tmp_path, number):
    alone = host(number, free_port(), tmp_path / "run", before="hosts.MEETING = 3")
    out, err = alone.communicate(timeout=60)
    assert refused((alone.returncode, out, err), "did not come within 3 s")
    assert list(tmp_path.iterdir()) == []


def listening(process):
    """The addresses [4 bytes of IPv4, or 16] and ports at which the process listens, by /proc."""
    fds, found = f"/proc/{process.pid}/fd", set()
    links = {os.readlink(f"{fds}/{fd}") for fd in os.listdir(fds) if os.path.lexists(f"{fds}/{fd}")}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{process.pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in links:
                address, _, port = fields[1].partition(":")
                words = [bytes.fromhex(address[n : n + 8])[::-1] for n in range(0, len(address), 8)]
                found.add((b"".join(words).removeprefix(bytes(10) + b"\xff\xff"), int(port, 16)))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/net/tcp"), reason="needs Linux")
def test_host_0_listens_at_the_address_given_alone_and_a_signal_ends_its_waiting(tmp_path):
    port = free_port()
    arguments = ["search", *SMALL, "--out", "run", "--hosts", "2", "--host", "0", "--coordinator", f"127.0.0.2:{port}"]
    with subprocess.Popen(
        [sys.executable, "-m", "emalign_jax", *arguments], stderr=subprocess.PIPE, text=True, env=environment(),
        cwd=tmp_path,
    ) as process:  # fmt: skip
        while process.poll() is None and not listening(process):
            time.sleep(0.1)
        assert listening(process) == {(bytes([127, 0, 0, 2]), port)}
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (143, "emalign: interrupted; nothing half-written is left\n")
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_cannot_be_bound_is_refused(run, tmp_path):
    given = ("--hosts", "2", "--host", "0", "--out", tmp_path / "run", "--coordinator")
    assert refused(run("search", *SMALL, *given, "203.0.113.1:4321"), "--coordinator: host 0 cannot listen")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        at = f"127.0.0.1:{taken.getsockname()[1]}"
        assert refused(run("search", *SMALL, *given, at), f"{at}: Address already in use")


@pytest.mark.slow
def test_each_block_is_taken_once_and_a_failure_is_told(tmp_path):
    pair = [hosts.Hosts(tmp_path / "shared", n, 2) for n in range(2)]

    def fails():
        with pair[1].at_work():
            taken = [[host.take(n) for host in pair] for n in range(3)]
            assert [sum(block) for block in taken] == [1, 1, 1]
            raise OSError("no space\nleft")

    def waits():
        with pair[0].at_work():
            with pytest.raises(OSError, match="no space"):
                fails()
            pair[0].wait("searched")

    with pytest.raises(hosts.HostLost, match=r"host 1 ended early \(no space left\)"):
        waits()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def few(monkeypatch):
    """Five games count as many, for which LPs are solved together."""
    monkeypatch.setattr(frontier, "FEWEST", 5)
    monkeypatch.setattr(choice, "FEWEST_GUARANTEES", 5)
    monkeypatch.setattr(selection_rational.SelectionRational, "games_at_once", 5)


@pytest.mark.slow
def test_a_game_has_one_result_in_any_block_and_order(few):
    """Few games once had other LPs than many, which moved gains, guarantees and schemes."""
    games, setting = em.random_games(0, 7, agents=2, states=3, actions=3), (em.Selection(), em.RationalUser())
    whole, worst = em.solve(games, *setting, key=0), em.stability(games)
    turned = em.certify(games[::-1], whole.schemes[::-1], *setting)
    names = "user", "gain_lower", "gain_upper", "guarantee", "theorem"
    again = em.certify(games, whole, *setting)
    for name in names:
        np.testing.assert_array_equal(getattr(turned, name)[::-1], getattr(again, name))
    for at in (slice(0, 2), slice(5, 7)):
        part = em.solve(games[at], *setting, key=0, first=at.start, of=7)
        np.testing.assert_array_equal(part.schemes, whole.schemes[at])
        for name in names:
            np.testing.assert_array_equal(getattr(part.certificate, name), getattr(whole.certificate, name)[at])
        np.testing.assert_array_equal(em.stability(games[at], of=7).worst, worst.worst[at])
