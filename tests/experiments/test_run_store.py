"""Directories of runs below the commands: which run gets which name, what is on disk when, what goes on, and what is
left of one that is killed, or that finds no more room."""

import errno
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from filelock import FileLock
from support.commands import ENVIRONMENT
from support.foreign_files import NAMES, OURS, make, random_names, seen, untouched

from emalign_jax.experiments import run_store
from emalign_jax.experiments.run_parts import PARTS, Parts
from emalign_jax.experiments.run_store import LOCK, MANIFEST, Kind, Taken, begun, check, manifest
from emalign_jax.internal import ending, temporary
from emalign_jax.internal.files import atomic

pytestmark = [pytest.mark.usefixtures("empty_directory"), pytest.mark.host_only]

ONE, OTHER = Kind("search", ("table", "figure")), Kind("sweep", ("table", "figure"))


def entries(kind=ONE, a=1):
    return manifest(kind, {"a": a}, 0)


def start(out=Path("run"), kind=ONE, force=False, **config):
    return begun(out, kind, entries(kind, **config), force)


def work(out=Path("run"), kind=ONE, force=False, text="new", fail=None, parts=1, **config):
    """A run that keeps parts, then fails or ends; where it is."""
    with start(out, kind, force, **config) as run:
        for n in range(0 if run.done else parts):
            run.keep(f"part-{n}", ".npz", text.encode())
        if fail:
            raise fail
        if not run.done:
            with atomic(run.path / "table") as made:
                made.write_text(text)
            run.finish(entries(kind, **config), 1.0)
        return run.path


def stopped(*arguments, **options):
    with pytest.raises(RuntimeError, match="stopped"):
        work(*arguments, fail=RuntimeError("stopped"), **options)


def held(path="run"):
    return {str(file.relative_to(path)) for file in Path(path).rglob("*")}


def status(path="run"):
    return json.loads(Path(path, MANIFEST).read_text())["status"]


def in_a_child(code, **options):
    """The code in a process of its own, after what it needs."""
    before = (
        "import os, sys\nfrom pathlib import Path\nfrom emalign_jax.experiments.run_store import *\n"
        "from emalign_jax.internal import ending\n"
        "ONE = Kind('search', ('table', 'figure'))\nentries = manifest(ONE, {'a': 1}, 0)\n"
    )
    environment = ENVIRONMENT | {"JAX_ENABLE_X64": str(jax.config.jax_enable_x64)}
    return subprocess.Popen([sys.executable, "-c", before + code], env=environment, text=True, **options)


# whose a directory is


@pytest.mark.parametrize("before", ["nothing", "a search", "a sweep", "a search at work", "a sweep at work"])
@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_there_nothing_that_is_not_the_run_s_own_is_touched(seed, before):
    """By runs of two kinds, with and without force, that end well or not, among other files, and where a run is."""
    random, place = np.random.default_rng(seed), Path("run")
    there = {"search": ONE, "sweep": OTHER}.get(before.split()[-1] if "work" not in before else before.split()[1])
    if there and "work" in before:  # and killed since
        place.mkdir()
        run_store.write_manifest(place, entries(there), "running", there.files)
        Parts(place).keep("part-0", ".npz", b"kept")
    elif there:
        work(place, there)
    own = seen(place) if place.exists() else {}
    names = {*random.choice([*NAMES, *OURS], 6, replace=False).tolist(), *random_names(seed, 4)}
    if "work" not in before:  # where a run may have written a figure
        names |= {"figure"} if random.integers(2) else set()
    make(place, seed, sorted(name for name in names if not os.path.lexists(place / name)))
    if "work" in before:
        make(place / PARTS, seed, sorted({*NAMES} - {"x" * 200}))
    foreign = {name: facts for name, facts in seen(place).items() if name not in own}
    refused = not there or {"figure", "parts"} & {*map(os.path.basename, foreign)}
    for kind in (ONE, OTHER):
        for force in (False, True):
            for fail in (RuntimeError("no"), None):
                try:
                    work(place, kind, force, fail=fail)
                    assert kind == there
                except RuntimeError:
                    assert kind == there
                except Taken:
                    assert kind != there or refused
                assert untouched(foreign, place)
    assert not [path for path in Path().iterdir() if temporary.NAMES.fullmatch(path.name)]
    assert not (place / LOCK).exists()


@pytest.mark.parametrize("kind", [ONE, OTHER])
def test_the_lock_follows_no_link(kind):
    Path("precious").write_text("years of work")
    work(kind=kind)
    Path("run", LOCK).symlink_to("../precious")
    for force in (False, True):
        with pytest.raises(Taken, match="--out"):
            work(kind=kind, force=force)
    shutil.rmtree("run")
    Path("run").mkdir()
    Path("run", LOCK).symlink_to("../precious")
    with pytest.raises(Taken, match="--out"):
        work(kind=kind)
    assert Path("precious").read_text() == "years of work"


def test_what_comes_there_during_the_work_keeps_its_place():
    work(text="old")
    with start(force=True) as run:
        assert held() == {MANIFEST, LOCK}, "what is replaced is gone at once"
        Path("run/thesis.tex").write_text("years of work")
        run.finish(entries(), 0.0)
    assert held() == {MANIFEST, "thesis.tex"}
    stopped(force=True, parts=0)
    assert held() == {"thesis.tex"}
    with pytest.raises(Taken, match="something else"):
        work()


def test_a_link_to_a_run_stays_one():
    work(Path("runs/one"), text="old")
    Path("latest").symlink_to("runs/one")
    assert work(Path("latest"), force=True) == Path("latest")
    assert Path("latest").is_symlink()
    assert Path("runs/one/table").read_text() == "new"


# which run is where


@pytest.mark.parametrize("out", [None, Path("mine")])
def test_of_runs_begun_together_each_has_a_name_of_its_own(out):
    began, got, refused = threading.Barrier(12), [], []
    done = threading.Barrier(12)

    def one():
        began.wait()
        try:
            with start(out) as run:
                got.append(run.path)
                done.wait(60)
                (run.path / "table").write_text("done")
                run.finish(entries(), 0.0)
        except Taken as error:
            refused.append(str(error))
            done.wait(60)

    threads = [threading.Thread(target=one) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if out is None:
        assert sorted(map(str, got)) == sorted(f"search-{n}" for n in range(1, 13))
        assert not refused
    else:
        assert got == [out]
        assert len(refused) == 11
        assert all("another emalign search is at work here" in words for words in refused)
    assert sorted(path.name for path in got[0].iterdir()) == [MANIFEST, "table"]


@pytest.mark.slow
def test_of_processes_that_come_and_go_no_two_are_ever_in_one_directory():
    """Each holds the run, marks that it does by a file that must not exist yet, and gives up, which removes all; so
    directories and locks vanish under the others all the time."""
    code = """
held = 0
while held < 20:
    try:
        with begun(Path("mine"), ONE, entries, False) as run:
            os.close(os.open("inside", os.O_CREAT | os.O_EXCL))
            assert {*os.listdir("mine")} == {MANIFEST, LOCK}, os.listdir("mine")
            os.unlink("inside")
            held += 1
            raise KeyError
    except (KeyError, Taken):
        pass
"""
    children = [in_a_child(code, stderr=subprocess.PIPE) for _ in range(4)]
    assert [child.communicate()[1] for child in children] == [""] * 4
    assert [child.returncode for child in children] == [0] * 4
    assert held(".") <= {"mine"}, "empty, where one has not made it, and who has could not remove it"


def test_names_without_out():
    """Those that are finished, of something else, at work, or of somebody else are passed over; one that was begun goes
    on, and with force none is."""
    assert work(None) == Path("search-1")
    stopped(None, a=2)
    Path("search-3").mkdir()
    Path("search-3/thesis.tex").write_text("years of work")
    with start(None) as run:
        assert run.path == Path("search-4")
        assert work(None) == Path("search-5")
    assert not Path("search-4").exists()
    stopped(None)
    assert held("search-4") == {MANIFEST, PARTS, *map(str, [p.relative_to("search-4") for p in _parts("search-4")])}
    assert work(None, force=True) == Path("search-6")
    with start(None) as run:
        assert run.path == Path("search-4")
        assert run.part("part-0", ".npz") == b"new"
    assert work(None, a=2) == Path("search-2")


def _parts(path="run"):
    return sorted(Path(path, PARTS).iterdir())


@pytest.mark.parametrize(("out", "a"), [(None, 1), (Path("search-1"), 1), (Path("search-1"), 2)])
def test_a_run_that_another_process_has_just_finished_is_as_it_was(monkeypatch, out, a):
    """It was unfinished when this one looked, and is done when this one has its lock."""
    acquire = FileLock.acquire

    def late(self, *arguments, **options):
        monkeypatch.setattr(FileLock, "acquire", acquire)
        work(Path("search-1"), text="theirs")
        return acquire(self, *arguments, **options)

    monkeypatch.setattr(FileLock, "acquire", late)
    if a == 2:
        with pytest.raises(Taken, match="a is 1 there and 2 now"):
            work(out, a=2)
    elif out is None:
        assert work(None) == Path("search-2")
    else:
        with start(out) as run:
            assert run.done
    assert held("search-1") == {MANIFEST, "table"}
    assert (status("search-1"), Path("search-1/table").read_text()) == ("done", "theirs")


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["parts", "manifest", "files"])
def test_killed_while_it_starts_anew_it_is_one_run_or_the_other(moment):
    stopped(a=2)
    with start(a=2) as run:
        for name in ("table", "figure"):
            (run.path / name).write_text("old")
        if moment != "parts":
            run.finish(entries(a=2), 0.0)
    code = f"""
from emalign_jax.experiments import run_store
die = lambda *_: os.kill(os.getpid(), 9)
if "{moment}" == "parts":
    Run._remove = lambda self, file: ((self.path / "parts" / file).unlink(), die())
if "{moment}" == "manifest":
    run_store.write_manifest = die
if "{moment}" == "files":
    Run._remove_files = die
with begun(Path("run"), ONE, entries, True) as run:
    pass
"""
    assert in_a_child(code).wait() == -signal.SIGKILL
    with start(a=1 if moment == "files" else 2) as run:
        assert run.done == (moment == "manifest")
        assert held() - {PARTS} == {MANIFEST, LOCK} | ({"table", "figure"} if run.done else set())
        if not run.done:
            run.keep("part-0", ".npz", b"new")


@pytest.mark.slow
def test_a_name_is_free_again_when_its_run_fails_or_is_killed():
    stopped(None, parts=0)
    assert list(Path().iterdir()) == []
    killed = "with begun(None, ONE, entries, False) as run:\n    os.kill(os.getpid(), 9)"
    assert in_a_child(killed).wait() == -signal.SIGKILL
    assert held("search-1") == {MANIFEST, LOCK}
    Path("search-1/thesis.tex").write_text("years of work")
    assert work(None) == Path("search-1")
    assert held("search-1") == {MANIFEST, "table", "thesis.tex"}


def test_another_specification_is_refused_and_named():
    work()
    before = seen(Path("run"))
    with pytest.raises(Taken, match=r"^run: --out: was begun otherwise: a is 1 there and 2 now; .*--force"):
        work(a=2)
    with pytest.raises(Taken, match="a is 1 there and 2 now"):
        check(Path("run"), ONE, False, entries(a=2))
    assert seen(Path("run")) == before
    work(a=2, force=True, text="anew")
    assert Path("run/table").read_text() == "anew"


# what goes on


def test_a_run_that_is_done_is_as_it_was():
    work(text="old")
    before = seen(Path("run"))
    with start() as run:
        assert run.done
    assert seen(Path("run")) == before


def test_what_was_kept_is_there_again_and_gone_when_the_run_is_done():
    stopped(text="kept", parts=3)
    assert status() == "running"
    with start() as run:
        assert not run.done
        assert run.kept("part-2", ".npz")
        assert not run.kept("part-2", ".parquet")
        assert [run.part(f"part-{n}", ".npz") for n in range(4)] == [b"kept"] * 3 + [None]
        run.keep("part-1", ".npz", b"newer")
        assert (run.part("part-1", ".npz"), len(_parts())) == (b"newer", 3)
        assert Parts(run.path).part("part-1", ".npz") == b"newer", "as another process sees it"
        (run.path / PARTS / "notes").write_text("mine")
        run.finish(entries(), 0.0)
    assert held() == {MANIFEST, PARTS, f"{PARTS}/notes"}
    assert status() == "done"


def test_parts_of_other_processes_are_seen_after_a_look():
    with start() as run:
        Parts(run.path).keep("theirs", ".parquet", b"rows")
        assert run.part("theirs", ".parquet") is None
        run.look()
        assert run.part("theirs", ".parquet") == b"rows"
        run.finish(entries(), 0.0)
    assert held() == {MANIFEST}


@pytest.mark.parametrize("name", ["", "A", "a/b", "a.b", "../a", "é", "a\n"])
def test_names_of_parts(name):
    with start() as run:
        with pytest.raises(ValueError, match="expected a name of 0-9, a-z and -"):
            run.keep(name, ".npz", b"")
        with pytest.raises(ValueError, match="expected a name of 0-9, a-z and -"):
            run.keep("a", name or "npz", b"")


DAMAGE = {
    "bytes": lambda part, other: part.write_bytes(b"!" + part.read_bytes()[1:]),
    "cut short": lambda part, other: part.write_bytes(b""),
    "another part's": lambda part, other: shutil.copy(other, part),
    "renamed": lambda part, other: part.unlink() or shutil.copy(other, str(other).replace("part-1", "part-0")),
    "link": lambda part, other: part.rename("elsewhere") and part.symlink_to("../../elsewhere"),
    "directory": lambda part, other: part.unlink() or part.mkdir(),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_part_is_told_of_and_not_taken(how):
    with start() as run:
        run.keep("part-0", ".npz", b"zero")
        run.keep("part-1", ".npz", b"one")
        DAMAGE[how](*_parts())
        said = []
        fresh = Parts(run.path, said.append)
        assert not fresh.kept("part-0", ".npz")
        assert fresh.part("part-0", ".npz") is None
        assert fresh.part("part-1", ".npz") == b"one"
        assert len(said) == 1
        assert re.fullmatch(r"run/parts/part-0-[0-9a-f]{16}\.npz: damaged; .*", said[0])
        assert len(_parts()) == (2 if how in ("link", "directory") else 1), "what is no file of the run's stays"


def test_of_two_versions_of_a_part_the_newer_one_is_taken(monkeypatch):
    """As a process leaves them that is killed before it has removed the older one."""
    with start() as run:
        with monkeypatch.context() as patch:
            patch.setattr(Parts, "_remove", lambda *_: None)
            for data in (b"3", b"1", b"2"):
                run.keep("state", ".npz", data)
        assert len(_parts()) == 3
        for part in _parts():  # not as the files of a fast machine have it, nor as their names have it
            os.utime(part, ns=(0, {b"3": 1, b"1": 3, b"2": 2}[part.read_bytes()]))
        run.look()
        assert run.part("state", ".npz") == b"1"
        run.keep("state", ".npz", b"4")
        assert [part.read_bytes() for part in _parts()] == [b"4"]


def test_one_look_at_the_directory_is_enough_for_all_parts(monkeypatch):
    with start() as run:
        for n in range(50):
            run.keep(f"part-{n}", ".npz", b"x")
        looks, listdir = [], os.listdir
        monkeypatch.setattr(os, "listdir", lambda path: looks.append(path) or listdir(path))
        monkeypatch.setattr(os, "scandir", lambda path: looks.append(path))
        fresh = Parts(run.path)
        assert all(fresh.kept(f"part-{n}", ".npz") for n in range(50))
        assert looks == [Path("run", PARTS)]


# what an end leaves


@pytest.mark.parametrize("there", [False, True])
def test_what_ends_before_a_part_is_kept_leaves_nothing(there):
    if there:
        Path("run").mkdir()
    stopped(parts=0)
    assert held(".") == ({"run"} if there else set())
    stopped(parts=1)
    assert held() >= {MANIFEST, PARTS}
    assert LOCK not in held()


@pytest.mark.parametrize("parts", [0, 1])
def test_a_signal_leaves_what_an_exception_does(parts):
    code = f"""
ending.install_handlers()
with begun(Path("run"), ONE, entries, False) as run:
    (run.path / "table").write_text("half")
    for n in range({parts}):
        run.keep("part", ".npz", b"kept")
    print("there", flush=True)
    os.read(0, 1)
"""
    pipe = subprocess.PIPE
    with in_a_child(code, stdin=pipe, stdout=pipe, stderr=pipe) as child:
        assert child.stdout.readline() == "there\n"
        with pytest.raises(Taken, match="another emalign search is at work here"):
            work()
        child.send_signal(signal.SIGTERM)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 128 + signal.SIGTERM
    kept = "what is done is kept in run; the same command goes on from there"
    assert err == f"emalign: interrupted; {kept if parts else ending.CLEAN}\n"
    if parts:
        assert held() == {MANIFEST, "table", PARTS, *(str(part.relative_to("run")) for part in _parts())}
    assert work() == Path("run")


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["manifest", "part", "older", "done", "parts"])
def test_killed_at_the_worst_moments_it_goes_on(moment):
    """After the manifest, in the middle of a part and before the older one is removed, when the last manifest is
    written, and when the parts are half removed."""
    code = f"""
from emalign_jax.experiments import run_parts
die = lambda *_: os.kill(os.getpid(), 9)
with begun(Path("run"), ONE, entries, False) as run:
    if "{moment}" == "manifest":
        die()
    run.keep("part-1", ".npz", b"kept")
    run.keep("part-0", ".npz", b"older")
    if "{moment}" == "older":
        run_parts.Parts._remove = die
    if "{moment}" == "part":
        os.fsync = die
    run.keep("part-0", ".npz", b"kept")
    (run.path / "table").write_text("new")
    if "{moment}" == "done":
        Run._clear = die
    if "{moment}" == "parts":
        rest, run_parts.Parts._remove = run_parts.Parts._remove, lambda self, file: (rest(self, file), die())
    run.finish(entries, 0.0)
"""
    assert in_a_child(code).wait() == -signal.SIGKILL
    over = moment in ("done", "parts")
    assert status() == ("done" if over else "running")
    assert LOCK in held()
    assert moment == "manifest" or PARTS in held()
    with start() as run:
        assert run.done == over
        if not over:
            assert run.part("part-1", ".npz") == (None if moment == "manifest" else b"kept")
            assert run.part("part-0", ".npz") == {"part": b"older", "older": b"kept"}.get(moment)
            work_of = {"part-0": b"kept", "part-1": b"kept"}
            for name, data in work_of.items():
                run.keep(name, ".npz", data)
            assert len(_parts()) == 2, "no temporary file, and nothing older, is left"
            (run.path / "table").write_text("new")
            run.finish(entries(), 0.0)
    assert held() == {MANIFEST, "table"}


def test_a_lock_that_is_held_stands_whatever_else_is_there():
    """Held by another than emalign: in a directory that is empty, of a run, and with force."""
    Path("run").mkdir()
    for _ in range(2):
        with FileLock(Path("run", LOCK)):
            for force in (False, True):
                with pytest.raises(Taken, match="another emalign search is at work here; wait for it"):
                    work(force=force)
        work()


@pytest.mark.parametrize("kept", [0, 2])
def test_a_full_disk_ends_in_one_line_and_the_same_command_goes_on(monkeypatch, kept):
    write, parts = Path.write_bytes, []

    def full(self, data):
        if PARTS in self.parts:
            parts.append(self)
            if len(parts) > kept:
                write(self, data[: len(data) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(ValueError, match=r"^run/parts/part-\d-.*: cannot be written: No space left on device$"):
            work(parts=3)
    assert not Path("run").exists() if not kept else len(_parts()) == kept
    with start() as run:
        assert [run.part(f"part-{n}", ".npz") for n in range(3)] == [b"new"] * kept + [None] * (3 - kept)
    work(parts=3)
    assert held() == {MANIFEST, "table"}


def test_all_that_a_manifest_names_is_on_disk_before_it(monkeypatch):
    synced, fsync, replace = [], os.fsync, os.replace

    def recording(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def moving(source, to):
        synced.append(f"{source} is {to}")
        replace(source, to)

    monkeypatch.setattr(os, "fsync", recording)
    monkeypatch.setattr(os, "replace", moving)
    work()
    here = str(Path("run").absolute())
    last = max(n for n, what in enumerate(synced) if what.endswith(f" is run/{MANIFEST}"))
    assert f"{here}/table" in synced[:last]
    assert {here, str(Path().absolute())} <= set(synced[last:])
    assert synced[last].startswith(synced[last - 1]), "itself, too"


@pytest.mark.parametrize(
    ("mask", "file", "folder"), [(0o027, 0o640, 0o750), (0o077, 0o600, 0o700), (0o002, 0o664, 0o775)]
)
def test_permissions_are_those_that_the_umask_leaves(mask, file, folder):
    before = os.umask(mask)
    try:
        for force in (False, True):
            work(Path("run"), force=force)
            with atomic("file") as made:
                assert stat.S_IMODE(made.stat().st_mode) == file, "not even for a moment more"
                made.write_text("")
            assert stat.S_IMODE(Path("run").stat().st_mode) == folder
            for path in (Path("file"), Path("run/table"), Path("run", MANIFEST)):
                assert stat.S_IMODE(path.stat().st_mode) == file
    finally:
        os.umask(before)


def test_a_file_that_is_not_to_be_replaced_is_not_though_it_comes_at_the_last_moment(monkeypatch):
    def write():
        with atomic("file", replace=False) as made:
            made.write_text("new")
            Path("file").write_text("theirs")

    with pytest.raises(FileExistsError, match="file"):
        write()
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no links here")))
    Path("file").unlink()
    with pytest.raises(FileExistsError, match="file"):
        write()
    Path("file").unlink()
    with atomic("file", replace=False) as made:
        made.write_text("new")
    assert Path("file").read_text() == "new"
    assert [path.name for path in Path().iterdir()] == ["file"]


@pytest.mark.parametrize("field", ["schema", "kind", "status", "command", "config", "versions", "files"])
def test_manifests_of_others_are_refused_field_by_field(field):
    work()
    whole = json.loads(Path("run", MANIFEST).read_text())
    for wrong in (None, 7, "", {"a": 1}, [["x"]], ["../precious"], ["/etc/passwd"], [".."], ["a\0b"], [MANIFEST]):
        Path("run", MANIFEST).write_text(json.dumps(whole | {field: wrong}))
        if (field, type(wrong)) in {("kind", str), ("command", list), ("config", dict), ("versions", dict)}:
            continue
        with pytest.raises(ValueError, match=f"^run/manifest.json: {field}: "):
            run_store.read(Path("run"))
        with pytest.raises(Taken, match=r"its manifest\.json is not that of a run of emalign search"):
            work(force=True)
    shutil.rmtree("run")
