"""Tables of utilities: one matrix however it is written down, what is left out and why, and refusals."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.commands import child

import emalign_jax as em
from emalign_jax.experiments.hull import tables
from emalign_jax.experiments.hull.block import dense_block

pytestmark = [pytest.mark.usefixtures("empty_directory"), pytest.mark.host_only]

PEOPLE, ITEMS = 4, 12


def matrix(people=PEOPLE, items=ITEMS, seed=0):
    return np.random.default_rng(seed).integers(1, 6, (people, items)).astype(float)


def long(values):
    """A row a cell that is there, in random order; users and items numbered from 1."""
    user, item = np.nonzero(~np.isnan(values))
    frame = pd.DataFrame({"user": user + 1, "item": item + 1, "rating": values[user, item], "timestamp": 8})
    return frame.sample(frac=1, random_state=1)


def read(name, **options):
    return tables.read(Path(name), tables.Options(**options))


def sorted_rows(table):
    """Utilities [P, Y], people in the order of their names; items as a set of columns."""
    order = np.argsort([int(name.strip("p")) for name in table.names])
    values = table.utilities[order, 0]
    return values[:, np.lexsort(values)]


def test_every_way_to_write_a_table_reads_alike():
    values = matrix()
    frame = long(values)
    wide = pd.DataFrame(values.T, columns=[f"p{n}" for n in range(1, PEOPLE + 1)])
    wide.insert(0, "prompt", [f"row {n}" for n in range(ITEMS)])
    frame.to_csv("long.csv", index=False)
    frame.to_csv("long.tsv", index=False, sep="\t")
    frame.to_parquet("long.parquet", index=False)
    frame.to_csv("bom.csv", index=False, encoding="utf-8-sig")
    frame.to_csv("utf16.csv", index=False, encoding="utf-16")
    frame.astype(int).to_csv("u.data", index=False, header=False, sep="\t")
    frame.rename(columns={"user": "userId", "item": "movieId"}).to_csv("ratings.csv", index=False)
    frame.rename(columns={"user": "who", "item": "film", "rating": "stars"}).to_csv("named.csv", index=False)
    wide.to_csv("wide.csv", index=False)
    wide.to_parquet("wide.parquet", index=False)
    expected = values[:, np.lexsort(values)]
    named = {"named.csv": {"user": "who", "item": "film", "rating": "stars"}, "utf16.csv": {"encoding": "utf-16"}}
    named |= {"wide.csv": {"id": "prompt"}, "wide.parquet": {"id": "prompt"}}
    for path in sorted(Path().iterdir()):
        table = read(path.name, **named.get(path.name, {}))
        np.testing.assert_array_equal(sorted_rows(table), expected, err_msg=path.name)
        assert table.notes == ()
        assert (table.available, table.item_count, table.per_state) == (PEOPLE - 1, ITEMS, False)
        np.testing.assert_array_equal(
            table.agents, ~np.eye(PEOPLE, dtype=bool)
        )  # no person is an agent for their own target


def test_a_wide_table_with_one_target():
    values = matrix()
    pd.DataFrame(values.T, columns=list("abcd")).to_csv("t.csv", index=False)
    table = read("t.csv", target="c")
    assert [table.names[t] for t in table.targets] == ["c"]
    assert np.flatnonzero(table.agents[0]).tolist() == [0, 1, 3]
    np.testing.assert_array_equal(table.utilities[:, 0], values)


def test_blocks_have_no_gap_and_cannot_grow():
    rng = np.random.default_rng(3)
    for share in (0.05, 0.3, 0.7):
        for _ in range(20):
            present = rng.random((9, 11)) > share
            rows, columns = dense_block(present, 2, 2)
            assert present[np.ix_(rows, columns)].all()
            if len(rows) and len(columns):
                assert sorted(np.flatnonzero(present[:, columns].all(1))) == rows.tolist()
                assert sorted(np.flatnonzero(present[rows].all(0))) == columns.tolist()


def test_a_block_keeps_the_target_and_what_was_asked_for():
    present = np.ones((6, 30), bool)
    present[0, :25] = False  # the target has 5 items
    present[1:, 3] = False
    rows, columns = dense_block(present, 2, 5, keep=0)
    assert 0 in rows
    assert columns.tolist() == list(range(25, 30))
    rows, columns = dense_block(present, 5, 20)
    assert rows.tolist() == [1, 2, 3, 4, 5]
    assert len(columns) == 29
    # four people on all 12 items (48 cells), or all ten on 5 (50): the numbers asked for decide
    present = np.zeros((10, 12), bool)
    present[:4] = present[:, :5] = True
    assert [len(axis) for axis in dense_block(present, 3, 10)] == [4, 12]
    assert [len(axis) for axis in dense_block(present, 8, 4)] == [10, 5]


def test_what_is_left_out_is_said():
    values = matrix(5, 15)
    values[4, :12] = np.nan  # one who rated three items
    values[:3, 7] = np.nan  # an item that only one of the others rated
    frame = long(values)
    frame.loc[len(frame)] = [1, 99, np.nan, 8]
    frame.to_csv("t.csv", index=False)
    table = read("t.csv")
    assert table.utilities.shape == (4, 1, 14)
    assert not np.isnan(table.utilities).any()
    assert table.notes == (
        "1 of 72 rows left out: without user, item or rating".replace("72", str(len(frame))),
        "1 of 15 items left out: rated by only 1 of the 4 users kept",
        "1 of 5 users left out: rated only 3 of the 14 items kept",
    )
    values = matrix(4, 15)
    values[2] = 4
    long(values).to_csv("flat.csv", index=False)
    table = read("flat.csv")
    assert sorted(table.names[t] for t in table.targets) == ["1", "2", "4"]
    assert table.agents.sum(1).tolist() == [3, 3, 3], "person 3 may still be an agent"
    assert table.notes == ("1 of 4 are no targets, for whom all items are alike: 3",)


def test_a_table_too_large_to_lay_out_keeps_the_frequent(monkeypatch):
    values = np.full((40, 60), np.nan)
    values[:5, :12] = matrix(5, 12)
    values[np.arange(5, 40), np.arange(5, 40)] = 3  # 35 people with one rating each
    long(values).to_csv("t.csv", index=False)
    monkeypatch.setattr(tables, "MOST_CELLS", 100)
    table = read("t.csv")
    assert table.utilities.shape == (5, 1, 12)
    assert "the table is large: only users and items with many ratings were looked at" in table.notes
    expected = values[:5, :12]
    np.testing.assert_array_equal(sorted_rows(table), expected[:, np.lexsort(expected)])


def poll(scale=1.0):
    rng = np.random.default_rng(5)
    shares = rng.dirichlet(np.ones(3), (4, 12)) * scale
    frame = pd.DataFrame(
        [(f"q{q:02}", f"o{o}", f"g{g}", shares[g, q, o]) for q in range(12) for o in range(3) for g in range(4)],
        columns=["question", "option", "group", "share"],
    )
    return shares, frame


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_answer_distributions(scale):
    shares, frame = poll(scale)
    frame.sample(frac=1, random_state=0).to_csv("t.csv", index=False)
    table = read("t.csv")
    assert table.names == ["g0", "g1", "g2", "g3"]
    np.testing.assert_allclose(table.utilities[:, 0], shares.reshape(4, -1) / scale, atol=1e-12)
    assert table.item.tolist() == np.repeat(np.arange(12), 3).tolist(), "questions are split, not options"
    assert table.item_count == 12


def test_answer_distributions_with_gaps():
    shares, frame = poll()
    zero = (frame["group"] == "g1") & (frame["question"] == "q03")
    frame.loc[zero & (frame["option"] == "o1"), "share"] += frame.loc[zero & (frame["option"] == "o2"), "share"].sum()
    frame = frame[~(zero & (frame["option"] == "o2"))]  # an option that is not listed has share 0
    frame = frame[~((frame["group"] == "g2") & (frame["question"] == "q05"))]  # a question not asked
    frame.to_csv("t.csv", index=False)
    table = read("t.csv")
    assert table.utilities.shape == (4, 1, 33)
    np.testing.assert_allclose(
        table.utilities[1, 0, 9:12], [shares[1, 3, 0], shares[1, 3, 1] + shares[1, 3, 2], 0], atol=1e-12
    )
    assert table.notes == (
        "options that a group was not listed with count as shares of 0 (1)",
        "1 of 12 questions left out: answered by only 3 of the 4 groups kept",
    )


def test_npz_of_games_and_of_reward_models():
    rng = np.random.default_rng(2)
    user, agents = rng.normal(size=(3, 4, 20)), rng.normal(size=(5, 4, 20))
    np.savez("shared.npz", user_utility=user, agent_utilities=agents)
    table = read("shared.npz")
    assert table.per_state
    assert table.agents.sum(1).tolist() == [5] * 3
    np.testing.assert_array_equal(table.utilities[table.targets], user)
    np.testing.assert_array_equal(table.utilities[table.agents[1]], agents)
    own = rng.normal(size=(3, 5, 4, 20))
    user[1, 0, 0] = np.nan
    own[2, 3:] = np.nan  # the third game has three agents
    np.savez("own.npz", user_utility=user, agent_utilities=own, agents=np.array([5, 5, 3]))
    table = read("own.npz")
    assert [table.names[t] for t in table.targets] == ["game 0", "game 2"]
    np.testing.assert_array_equal(table.utilities[table.agents[1]], own[2, :3])
    assert table.available == 3
    assert table.notes == ("1 of 3 targets left out: with entries that are not finite",)
    em.save_games("g.npz", em.catalog.prosecutor_against_defender())
    assert read("g.npz").utilities.shape == (3, 2, 2)


def write(name, text, encoding="utf-8"):
    Path(name).write_bytes(text.encode(encoding))


HEAD = "user,item,rating\n"


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("", {}, ["is empty"]),
        (HEAD, {}, ["has no rows"]),
        (HEAD + "\n\n", {}, ["all 2 rows are empty"]),
        (HEAD.replace(",", ";") + "a;x;1\n", {}, ["row 1", "separated by semicolons", "expected commas"]),
        (HEAD + 'a,x,1\na,"y,1\nb,x,2\n', {}, ["row 3: a quotation mark is opened and never closed"]),
        (HEAD + "a,x,1\nb,x,2\n", {"rating": "stars"}, ["--rating", "'stars'", "user, item, rating"]),
        (HEAD + "a,x,1\nb,x,good\n", {}, ["rating", "row 3", "'good'", "a number"]),
        (HEAD + "a,x,1\nb,x,inf\n", {}, ["rating", "row 3", "finite"]),
        (HEAD + "a,x,1\nb,x,1e200\n", {}, ["rating", "row 3", "1e+100"]),
        (HEAD + "a,x,1\nb,x,2\na,x,1\n", {}, ["user a, item x", "rows 2 and 4"]),
        (HEAD + "a,x,1\nb,x,2,9,9\n", {}, ["line 3", "3 fields"]),
        (HEAD + "a,x,1\nb,x,2\n", {}, ["--least-people", "2 and 1"]),
        (HEAD + "a,x,\nb,x,\n", {}, ["rating"]),
        ("user,item,rating,rating\na,x,1,1\n", {}, ["'rating'", "2 times"]),
        ("a,b,c\n1,2,3\n", {}, ["--id COLUMN", "a, b, c"]),
        ("id,a,b\nx,1,2\ny,2,3\n", {"target": "a"}, ["id", "row 2", "'x'", "--id"]),
        ("id,a,b\nx,1,2\nx,2,3\n", {"id": "id"}, ["id x", "rows 2 and 3"]),
        ("id,a,b\nx,1,\ny,2,\n", {"id": "id", "target": "b"}, ["b", "column is empty"]),
        ("id,a,b\nx,1,2\n", {"id": "id", "target": "id"}, ["--id", "--target"]),
        ("question,option,group,share\nq,a,g,.5\nq,b,g,.2\n", {}, ["'g'", "'q'", "0.7", "expected 1"]),
        ("question,option,group,share\nq,a,g,1.5\nq,b,g,-.5\n", {}, ["share", "row 3", ">= 0"]),
        (HEAD + "a,x,1\n", {"question": "user", "user": "user"}, ["--question", "--user"]),
        (HEAD + "a,x,1\n", {"encoding": "klingon"}, ["--encoding", "'klingon'"]),
        ("\0\0\0", {}, ["NUL", "utf-16"]),
    ],
)
def test_refusals_name_the_place_and_the_rule(text, options, words):
    write("t.csv", text)
    with pytest.raises(ValueError) as refusal:
        read("t.csv", **options)
    for word in [*words, *([] if "question" in options or "klingon" in options.values() else ["t.csv"])]:
        assert word in str(refusal.value)


def test_refusals_of_encodings_and_files():
    write("t.csv", HEAD + "a,x,1\ncaf\u00e9,x,2\n", "latin-1")
    with pytest.raises(ValueError, match=r"t\.csv: row 3: byte 4 \(0xe9\) is not utf-8.*--encoding latin-1"):
        read("t.csv")
    write("t.csv", HEAD + "a,x,1\n", "utf-16")
    with pytest.raises(ValueError, match=r"row 1: byte 1 .*--encoding utf-16"):
        read("t.csv")
    write("t.parquet", "no parquet")
    with pytest.raises(ValueError, match=r"t\.parquet: cannot be read as parquet"):
        read("t.parquet")
    pd.DataFrame({"user": [b"\xff"], "item": [1], "rating": [1.0]}).to_parquet("t.parquet")
    with pytest.raises(ValueError, match=r"t\.parquet: user: expected text, got bytes"):
        read("t.parquet")
    pd.DataFrame({"user": [1], "item": [1], "rating": pd.Timestamp("2020")}).to_parquet("t.parquet")
    with pytest.raises(ValueError, match=r"t\.parquet: rating: expected numbers, got datetime"):
        read("t.parquet")
    write("u.data", "1 2 3 4\n")
    with pytest.raises(ValueError, match=r"u\.data: row 1: expected four numbers between tabs"):
        read("u.data")
    np.savez("t.npz", user_utility=np.ones((2, 3)), agent_utilities=np.ones((2, 3, 2)))
    with pytest.raises(ValueError, match=r"t\.npz: agent_utilities: last axes"):
        read("t.npz")
    np.savez("t.npz", user_utility=np.full((2, 3), 1e200), agent_utilities=np.ones((2, 2, 3)))
    with pytest.raises(ValueError, match=r"t\.npz: user_utility: expected numbers below"):
        read("t.npz")
    np.savez("t.npz", user_utility=np.array([{}, None]), agent_utilities=np.ones((2, 2, 3)))
    with pytest.raises(ValueError, match="pickled"):
        read("t.npz")


@pytest.mark.slow
def test_a_hundred_thousand_ratings_load_fast_and_small():
    rng = np.random.default_rng(0)
    cells = rng.choice(943 * 1682, 100_000, replace=False)
    frame = pd.DataFrame({"user": cells // 1682, "item": cells % 1682, "rating": rng.integers(1, 6, 100_000), "t": 1})
    frame.loc[frame["item"] < 12, "rating"] = 3  # so that there is a block
    extra = [(user, item, 1 + (user * item) % 5, 1) for user in range(20) for item in range(12)]
    frame = pd.concat([pd.DataFrame(extra, columns=frame.columns), frame]).drop_duplicates(["user", "item"])
    frame.to_csv("u.data", sep="\t", header=False, index=False)
    code = (
        "import json, resource, time; from pathlib import Path; import pandas, pyarrow\n"
        "from emalign_jax.experiments.hull import tables\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "before, began = peak(), time.process_time()\n"
        "tables.read(Path('u.data'), tables.Options())\n"
        "print(json.dumps([time.process_time() - began, peak() - before]))"
    )
    seconds, megabytes = json.loads(child(code))
    assert seconds < 2
    assert megabytes < 200
