"""What would not fit is refused by its headers and numbers, before anything of that size is made."""

import math
import tracemalloc
import types
import zipfile
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.commands import refused

import emalign_jax as em
from emalign_jax.experiments import plan
from emalign_jax.experiments.grid import check
from emalign_jax.experiments.hull import block, tables
from emalign_jax.experiments.modules import make_solver
from emalign_jax.experiments.specification import Solver
from emalign_jax.internal import arguments, memory, npz, parquet

pytestmark = [pytest.mark.usefixtures("empty_directory"), pytest.mark.host_only]

SMALL = 2**20


@pytest.fixture
def little(monkeypatch):
    """A machine with a megabyte."""
    monkeypatch.setattr(memory, "free_bytes", lambda: SMALL)


@pytest.fixture
def frugal():
    """Nothing within the test may take 50 MB: neither what is refused nor the refusal."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


def group(folder, **numbers):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in numbers.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.mark.parametrize(
    ("own", "free"),
    [
        ("0::/a/b", 50 + 7),  # the limit of the group around counts too, and what caches would give back does not
        ("4:memory:/a", 60),
        ("3:cpu,memory:/a\n2:cpuset:/", 60),
        ("2:cpuset:/a", None),
        ("0::/c", None),
        ("", None),
    ],
)
def test_memory_is_what_the_control_groups_leave(tmp_path, monkeypatch, own, free):
    group(tmp_path / "a", memory__max="100", memory__current="50", memory__stat="file 9\ninactive_file 7\n")
    group(tmp_path / "a" / "b", memory__max="1000", memory__current="10")
    group(tmp_path / "c", memory__max="max", memory__current="10")
    group(tmp_path / "memory" / "a", memory__limit_in_bytes="100", memory__usage_in_bytes="40")
    (tmp_path / "own").write_text(own)
    monkeypatch.setattr(memory, "GROUPS", tmp_path)
    monkeypatch.setattr(memory, "OWN_GROUPS", tmp_path / "own")
    found = memory.free_bytes()
    assert found == free if free is not None else found > SMALL


def test_sizes_in_words():
    words = [memory.size(count) for count in (0, 999, 1000, 3_210_000, 2 * 10**12, 10**40)]
    assert words == ["0 bytes", "999 bytes", "1 kB", "3.21 MB", "2 TB", "1e+22 EB"]


def test_counts_stop_before_their_digits_fill_the_memory():
    for base in (0, 1, 2, 7, 2**31):
        for exponent in (0, 1, 3, 9):
            assert arguments.power(base, exponent) == min(base**exponent, arguments.CEILING)
    for count in (0, 1, 5, 40, 200):
        for taken in range(count + 1):
            assert arguments.subsets(count, taken) == min(math.comb(count, taken), arguments.CEILING)
    assert arguments.power(2, 2**40) == arguments.power(2**40, 2**40) == arguments.CEILING
    assert arguments.power(1, 2**40) == 1
    assert arguments.subsets(2**40, 2**39) == arguments.CEILING


# files


def archive(path, shapes, compression=zipfile.ZIP_DEFLATED):
    """An .npz of zeros."""
    with zipfile.ZipFile(path, "w", compression) as out:
        for name, shape in shapes.items():
            with out.open(f"{name}.npy", "w") as file:
                np.save(file, np.zeros(shape))


@pytest.mark.parametrize("large", ["prior", "user_utility", "agent_utilities", "schemes"])
def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch, large):
    monkeypatch.setattr(npz, "LARGE", 10**6)
    XA, A, K, N = (200_000 if large == name else 2 for name in ("prior", "user_utility", "agent_utilities", "schemes"))
    shapes = {
        "prior": (2, XA, 1, 2),
        "user_utility": (2, A, 2),
        "agent_utilities": (2, K, A, 2),
        "schemes": (N, 1, 1, 2),
    }
    if large == "user_utility":
        shapes["agent_utilities"] = (2, 1, A, 2)
    archive("bomb.npz", shapes)
    load = em.load_schemes if large == "schemes" else em.load_games
    tracemalloc.start()
    with pytest.raises(ValueError, match=rf"^bomb\.npz: {large}: unpacks to .* more than 100 times as much"):
        load("bomb.npz")
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()
    archive("plain.npz", shapes, zipfile.ZIP_STORED)  # the same, if it is meant
    if large == "schemes":
        assert em.load_schemes("plain.npz").shape == shapes["schemes"]


def test_arrays_that_do_not_fit_are_not_read(little):
    archive(
        "g.npz", {"prior": (40_000, 1, 2), "user_utility": (2, 2), "agent_utilities": (1, 2, 2)}, zipfile.ZIP_STORED
    )
    with pytest.raises(ValueError, match=r"^g\.npz: prior: .* would take about 2.56 MB of memory, 1.05 MB are"):
        em.load_games("g.npz")


def test_shapes_are_compared_before_an_archive_is_unpacked(little):
    archive("g.npz", {"prior": (1, 1, 2), "user_utility": (40_000, 2), "agent_utilities": (1, 2, 2)})
    with pytest.raises(
        ValueError, match=r"^g\.npz: agent_utilities: last axes \[A, Y\] are \[2, 2\], but user_utility"
    ):
        em.load_games("g.npz")
    with pytest.raises(ValueError, match=r"^g\.npz: agent_utilities: last axes \[A, Y\] are \[2, 2\], those of user_u"):
        tables.read(Path("g.npz"))
    archive("s.npz", {"schemes": (400_000, 2)})
    with pytest.raises(ValueError, match=r"^s\.npz: schemes: expected shape"):
        em.load_schemes("s.npz")


def test_a_header_that_says_more_than_the_archive_holds_is_no_size():
    for shape in ("(99999999999, 1, 2)", "(-1, 1, 2)", "(1, 1, 3)", "(1, 1)", f"({'9' * 4000}, 1, 2)"):
        header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(5000) + "\n"
        with zipfile.ZipFile("g.npz", "w") as out:
            head = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
            out.writestr("schemes.npy", head + bytes(16))
        with pytest.raises(ValueError, match=r"^g\.npz: schemes: cannot be read, the file is damaged$"):
            em.load_schemes("g.npz")


def test_parquet_is_measured_by_its_own_account(little):
    table = pa.table({"user": pa.array(["x"] * 50_000), "item": pa.array(np.zeros(50_000)), "few": [[1.0]] * 50_000})
    pq.write_table(table, "t.parquet")
    assert Path("t.parquet").stat().st_size < 100_000  # all the same: next to nothing on disk
    before = pa.total_allocated_bytes()
    for columns in (None, {"user": "text"}, {"item": "number"}):
        with pytest.raises(ValueError, match=r"^t\.parquet: a table of 50000 rows would take about .* of memory"):
            parquet.read(Path("t.parquet"), columns)
    with pytest.raises(ValueError, match=r"^t\.parquet: few: expected a value a row, got list<"):
        parquet.read(Path("t.parquet"), {"few": "any"})  # which could unpack to anything
    assert pa.total_allocated_bytes() <= before + SMALL


@pytest.mark.slow
def test_text_is_measured_by_its_size(run, little):
    Path("t.csv").write_text("user,item,rating\n" + "a,b,1\n" * 20_000)
    assert refused(run("align", "t.csv"), "t.csv", "a table of 120 kB would take about 1.8 MB of memory")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "count"), [("csv", 10_001), ("csv", 200_000), ("tsv", 10_001), ("tsv", 200_000), ("parquet", 10_001)]
)
def test_a_table_has_so_many_columns(run, kind, count):
    names = [f"p{n}" for n in range(count)]
    if kind == "parquet":
        pq.write_table(pa.table({name: [1.0] for name in names}), "t.parquet")
    else:
        separator = "\t" if kind == "tsv" else ","
        Path(f"t.{kind}").write_text(separator.join(names) + "\n" + separator.join(["1"] * count))
    for extra in ([], ["--target", "p1"], ["--id", "p0"]):
        assert refused(run("align", f"t.{kind}", *extra), f"t.{kind}", "at most 10000 columns", str(count))


def test_the_same_column_twice_is_found_in_one_pass(run):
    Path("t.csv").write_text(",".join([*(f"p{n}" for n in range(9_000)), "p7"]) + "\n")
    assert refused(run("align", "t.csv", "--id", "p0"), "t.csv", "'p7' is there 2 times")


def test_every_user_a_target_in_turn_must_fit(little):
    with pytest.raises(ValueError, match=r"^t: 2000 users, each a target in turn, would take about 4 MB"):
        tables._in_turn("t", "ratings", np.zeros((2000, 1, 3)), ["a"] * 2000, np.arange(3), ("users", "items"), (),
                        tables.Options())  # fmt: skip


def test_of_many_people_the_fullest_are_looked_at(monkeypatch):
    monkeypatch.setattr(block, "MOST", 20)
    rng = np.random.default_rng(3)
    present = rng.random((90, 50)) < 0.2 + 0.7 * rng.random((90, 1))
    least = int(present.sum(1).argmin())
    for keep in (None, least):
        rows, columns = block.dense_block(present, 3, 3, keep)
        assert present[np.ix_(rows, columns)].all()
        assert len(rows) <= 20
        assert rows.size * columns.size >= 12
        assert keep is None or least in rows
    fullest = np.argsort(-present.sum(1), kind="stable")[:20]
    assert set(block.dense_block(present, 3, 3)[0]) <= set(fullest)


# numbers


@pytest.mark.parametrize("number", [10**9, 2**31 - 1, 2**32 - 1, 10**20, 10**400])
@pytest.mark.parametrize("name", ["count", "agents", "states", "actions", "user_features", "agent_features"])
def test_random_games_that_do_not_fit_are_not_drawn(frugal, name, number):
    count, knobs = (number, {}) if name == "count" else (1, {name: number})
    with pytest.raises(ValueError, match=rf"^{name}: expected an integer <= |^count: .*\b{number}\b.* of memory"):
        em.random_games(jax.random.key(0), count, **knobs)


HUGE = ("2147483647", "4294967295", "99999999999999999999")


@pytest.mark.slow
@pytest.mark.parametrize("number", HUGE)
@pytest.mark.parametrize(
    "arguments",
    [
        "--count {}", "--no-verify --count {}", "--agents {}", "--states {}", "--actions {}",
        "--set games.user_features={}", "--set games.agent_features={}", "--rounds {}",
        "--protocol conversation --rounds {}", "--messages {}", "--starts {}", "--rounds 2 --replies {}",
        "--protocol conversation --replies {}", "--set solver.steps={}", "--set protocol.compare={}",
        "--protocol pooled --agents {}", "--protocol conversation --agents {}", "--protocol pooled --messages {}",
        "--set solver.method=best_responses --set solver.steps={}",
    ],
)  # fmt: skip
def test_a_search_of_huge_numbers_is_refused(run, frugal, arguments, number, tmp_path):
    assert refused(run("search", *arguments.format(number).split()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", HUGE[1:])
def test_a_block_is_a_number_of_games(run, number):
    assert refused(run("search", "--set", f"block={number}"), "block: expected <= 2147483647")


def test_a_run_that_does_not_fit_on_disk_is_not_begun(run, monkeypatch, tmp_path):
    from emalign_jax.experiments import run_store

    monkeypatch.setattr(run_store.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=10**5))
    assert refused(run("search", "--count", "1000"), "count", "would take about", "100 kB are free")
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_does_not_fit_is_refused(run, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 10**7)
    words = ("block, solver.starts: 100 games at a time with 1000 starts each", "10 MB are free")
    assert refused(run("search", "--agents", "2", "--family", "hull", "--starts", "1000", "--set", "block=100"), *words)


@pytest.mark.parametrize("number", HUGE)
@pytest.mark.parametrize(
    "text",
    [
        "[games]\ncount = {}", "[games]\nagents = {}", "[games]\nstates = {}", "[games]\nactions = {}",
        "[games]\nuser_features = {}", "[games]\nagent_features = {}", "[solver]\nstarts = {}", "[solver]\nsteps = {}",
        "[protocol]\nkind = 'conversation'\nrounds = {}", "[protocol]\nrounds = {}", "[protocol]\nmessages = {}",
        "[protocol]\nrounds = 2\nreplies = {}", "[protocol]\ncompare = {}", "[games]\nagents = [1, {}]",
        "[protocol]\nkind = 'pooled'\n[games]\nagents = {}", "[protocol]\nkind = 'pooled'\nmessages = {}",
    ],
)  # fmt: skip
def test_a_sweep_of_huge_numbers_is_refused(run, frugal, text, number, tmp_path):
    Path("grid.toml").write_text(text.format(number))
    assert refused(run("sweep", "grid.toml"), "grid.toml: ")
    assert [path.name for path in tmp_path.iterdir()] == ["grid.toml"]


@pytest.mark.slow
def test_all_cells_are_measured_before_any_is_checked(run, monkeypatch):
    monkeypatch.setattr(check, "_check", lambda *_: pytest.fail("checked"))
    seeds = ", ".join(map(str, range(5000)))
    Path("grid.toml").write_text(f"seed = [{seeds}]\n[games]\nagents = [1, 1000000000]")
    assert refused(run("sweep", "grid.toml"), "games.count", "games.agents = 1000000000")
    Path("grid.toml").write_text(f"seed = [{seeds}]\n[games]\ncount = 100000")
    assert refused(run("sweep", "grid.toml"), "games.count: a table of", "rows")


def test_cells_of_one_size_are_checked_once(monkeypatch):
    checked = []
    monkeypatch.setattr(check, "_check", lambda made, *_: checked.append(made.games.agents) or 1)
    grid = plan.parse("seed = [1, 2, 3]\n[games]\nagents = [1, 2]\nbias = [0.5, 1.0]\nfamily = ['hull', 'goal']", "g")
    check.check(grid, grid.cells(), 10)
    assert checked == [1, 2]


@pytest.mark.parametrize("number", HUGE)
@pytest.mark.parametrize(
    "text",
    [
        "[games]\ncount = {}", "[games]\nheld_out = {}", "[games]\nagents = {}", "[games]\nstates = {}",
        "[games]\nuser_features = {}", "[tune]\nsteps = {}", "[tune]\nstarts = {}", "[tune]\ndraws = {}",
        "[tune]\nrestarts = {0}\ndraws = {0}", "[tune]\npolish = {}\ndraws = 8",
        "[tune]\nfinalists = {0}\nrestarts = {0}",
    ],
)  # fmt: skip
def test_a_tuning_run_of_huge_numbers_is_refused(run, text, number, tmp_path):
    Path("market.toml").write_text(text.format(number) + ("" if "[games]" in text else "\n[games]\ncount = 2"))
    assert refused(run("tune", "market.toml"), "market.toml: ")
    assert [path.name for path in tmp_path.iterdir()] == ["market.toml"]


@pytest.mark.parametrize("option", ["--subsets"])
@pytest.mark.parametrize("number", HUGE)
def test_a_fit_of_huge_numbers_is_refused(run, option, number):
    rows = "".join(f"u{n % 5},i{n // 5},{n * n % 7}\n" for n in range(60))
    Path("t.csv").write_text("user,item,rating\n" + rows)
    assert refused(run("align", "t.csv", option, number), option)


@pytest.mark.slow
def test_agents_of_a_file_are_as_many_as_their_table_of_payoffs_allows(run, frugal):
    K = 5000
    games = em.Game([[[0.5, 0.5]]], np.eye(2), np.zeros((K, 2, 2)))
    em.save_games("g.npz", games)
    em.save_schemes("s.npz", np.full((K, 1, 2), 0.5))
    for words in (["stability", "g.npz"], ["search", "--games", "g.npz"], ["certify", "g.npz", "s.npz"],
                      ["certify", "g.npz", "s.npz", "--precision", "5"]):  # fmt: skip
        assert refused(run(*words), "agents: expected at most 4096 to select from, got 5000")
    schemes = np.full((K, 1, 2), 0.5)
    for call in (
        lambda: em.payoffs(games, schemes, em.Selection(), em.RationalUser()),
        lambda: em.best_response(games, schemes, 0, em.Selection(), em.RationalUser()),
        lambda: em.stability(games),
    ):
        with pytest.raises(ValueError, match=r"agents: expected at most 4096"):
            call()


def test_trees_of_any_number_of_rounds_are_measured_at_once():
    game = em.catalog.judge()
    with pytest.raises(ValueError, match=r"^rounds: expected an integer <= 100, got 1000000000$"):
        em.Conversation(10**9, 1)
    for conversation in (em.Conversation(100, 2**31 - 1), em.Selection(then=em.Conversation(100, 2**31 - 1))):
        with pytest.raises(ValueError, match="bytes a game; the limit is"):
            conversation.check(game, 2**31 - 1)


def test_steps_take_room_for_their_schedule(little):
    with pytest.raises(
        ValueError, match=r"^solver.steps: the schedule of 100000 steps would take about 6.4 MB of memory"
    ):
        make_solver(Solver(steps=100_000), 1e-3)


@pytest.mark.slow
def test_what_fits_is_not_refused(run):
    assert run("search", "--count", "2", "--agents", "1", "--family", "noise", "--set", "block=1000000")[0] == 0
    assert len(pd.read_parquet("search-1/games.parquet")) == 2
