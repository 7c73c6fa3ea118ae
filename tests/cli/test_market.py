"""`emalign market` from the command line: table, JSON, figure, report, specification, exit codes, bad input."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.commands import refused
from support.markets import copies, opposed, table

pytestmark = [pytest.mark.usefixtures("empty_directory"), pytest.mark.host_only]

FILES = ["agents.parquet", "manifest.json", "market.pdf", "market.png", "markets.parquet"]
QUICK = ("--bootstrap", "2", "--subsets", "2")
ANSWERS = ("market", "t.csv", "--answers", "--target", "human")


def save(n=8, A=2, K=3, made=opposed, path="t.csv"):
    frame = table(*made(n, A, K))
    frame.to_csv(path, index=False)
    return frame


def ratings(items=12, people=5, path="r.csv"):
    values = np.random.default_rng(2).integers(1, 6, (items, people))
    frame = pd.DataFrame(values, columns=["ann", *(f"p{k}" for k in range(people - 1))])
    frame.insert(0, "film", [f"f{k}" for k in range(items)])
    frame.to_csv(path, index=False)
    return frame


@pytest.mark.slow
def test_table_json_and_report(run):
    save(K=4)
    code, out, err = run(*ANSWERS, "--n", "2", "--target-value", "0.1", *QUICK)
    assert (code, err) == (0, "")
    for words in (
        "4 agents compete for human, 8 prompts x 2 actions",
        "worst equilibrium",
        "95 % over 2 resamples",
        "Transfers that lift the guarantee to 0.1",
        "worst without",
        "Figure: market-1/market.png",
    ):
        assert words in out
    columns = [line for line in out.splitlines() if line[:4] in ("   n", "   2", "   4")]
    assert len({len(line) for line in columns}) == 1, "the columns line up"
    assert sorted(path.name for path in Path("market-1").iterdir()) == FILES
    assert Path("market-1/market.png").read_bytes().startswith(b"\x89PNG")
    code, out, err = run(*ANSWERS, "--n", "2", "--target-value", "0.1", *QUICK, "--out", "market-1", "--json")
    said = json.loads(out)
    assert (code, err, said["schema"]) == (0, "", 1)
    assert set(said["user"]) == {"none", "full", "best_monopolist", "worst", "best", "guarantee"}
    assert {"name", "monopoly", "without"} <= set(said["agents"][0])
    assert {"error", "slack"} <= set(said["hull"])
    assert said["user"]["worst"] == pytest.approx(said["user"]["full"], abs=1e-6)
    assert [line["agents"] for line in said["curves"]] == [2, 4]
    rows = pd.read_parquet("market-1/markets.parquet")
    low, high = said["intervals"]["user"]["full"]
    resampled = rows.query("resample > 0 and kind == 'all'")["full"]
    np.testing.assert_allclose([low, high], np.quantile(resampled, [0.025, 0.975]))
    pairs = rows.query("kind == 'subset'").groupby("resample")["normalised_worst"].mean()
    assert said["curves"][0]["normalised_worst"] == pytest.approx(pairs[0])
    code, _, err = run("report", "market-1")
    assert (code, err) == (0, "")
    page = Path("market-1/report.html").read_text()
    for words in ("A market for human", "Against the number of agents", "coverage slack"):
        assert words in page


@pytest.mark.slow
def test_ratings_and_a_specification(run):
    ratings()
    code, out, err = run("market", "r.csv", "--accept", "own-mean", "--id", "film", "--target", "ann", *QUICK, "--json")
    said = json.loads(out)
    assert (code, err) == (0, "")
    assert said["user"]["none"] == pytest.approx(0, abs=1e-12), "taking all is worth the mean, which is the threshold"
    Path("s.toml").write_text(
        'title = "Films"\n[table]\nfile = "r.csv"\naccept = "own-mean"\nid = "film"\ntarget = "ann"\n'
        "[market]\nsubsets = 2\nn = [2]\n"
    )
    code, out, err = run("market", "s.toml", "--bootstrap", "0", "--set", "market.without=false", "--json")
    again = json.loads(out)
    assert (code, err) == (0, "")
    assert again["user"] == said["user"]
    assert [line["without"] for line in again["agents"]] == [None] * 4
    assert again["intervals"]["user"]["worst"] == [None, None]
    assert again["intervals"]["resamples"] == 0


@pytest.mark.slow
def test_agents_by_name_and_who_might_enter(run):
    frame = save(made=copies)
    frame.assign(model="gpt", other=-frame["human"]).to_csv("t.csv", index=False)
    code, out, err = run(*ANSWERS, "--agents", "ai 0, ai 1", "--bootstrap", "0", "--json")
    said = json.loads(out)
    assert (code, err) == (0, "")
    assert [line["name"] for line in said["agents"]] == ["ai 0", "ai 1"]
    assert sorted(line["name"] for line in said["entering"]) == ["ai 2", "other"], "model holds no numbers"


@pytest.mark.slow
def test_a_market_that_is_not_solved_costs_only_itself(run, monkeypatch):
    from emalign_jax.experiments.market import block
    from emalign_jax.lp.highs import LPFailed

    class Failing(block.MarketSolver):
        def values(self, agents=None, *rest):
            if len(agents) == 2:
                raise LPFailed
            return super().values(agents, *rest)

    save()
    monkeypatch.setattr(block, "MarketSolver", Failing)
    code, out, err = run(*ANSWERS, "--n", "2", "--bootstrap", "0", "--subsets", "2")
    assert (code, err) == (1, "")
    assert "2 markets were not solved" in out
    rows = pd.read_parquet("market-1/markets.parquet")
    assert rows.groupby("kind")["worst"].count().to_dict() == {"all": 1, "subset": 0}
    assert rows["full"].nunique() == 1
    code, out, _ = run(*ANSWERS, "--n", "2", "--bootstrap", "0", "--subsets", "2", "--out", "market-1", "--json")
    assert (code, json.loads(out)["summary"]["failed"]) == (1, 2)
    assert json.loads(run("report", "market-1", "--json")[1])["summary"]["failed"] == 2


@pytest.mark.slow
def test_a_damaged_run_is_refused(run):
    save()
    code, *_ = run(*ANSWERS, "--n", "2", "--bootstrap", "0", "--subsets", "1")
    rows = pd.read_parquet("market-1/markets.parquet")
    rows.assign(resample=1).to_parquet("market-1/markets.parquet")
    assert code == 0
    assert refused(run("report", "market-1"), "markets.parquet: resample, kind: expected the market of the table")
    rows.drop(columns="worst").to_parquet("market-1/markets.parquet")
    assert refused(run("report", "market-1"), "worst: expected one such column, got 0")
    rows.iloc[:0].to_parquet("market-1/markets.parquet")
    assert refused(run("report", "market-1"), "expected a row at least")
    rows.to_parquet("market-1/markets.parquet")
    manifest = json.loads(Path("market-1/manifest.json").read_text())
    for table_ in ({}, {"target": 5, "left_out": 7, "agents": "x"}):
        Path("market-1/manifest.json").write_text(json.dumps(manifest | {"table": table_}))
        code, _, err = run("report", "market-1", "--out", f"{len(table_)}.html")
        assert (code, err) == (0, "")


def change(frame, row, column, value):
    frame = frame.astype({column: object})
    frame.loc[row, column] = value
    return frame


TABLES = [
    (lambda t: t.drop(index=3), (), ("prompt 'p1'", "at least 2 answers, got 1")),
    (lambda t: pd.concat([t, t.iloc[:1].assign(answer="z")]), (), ("prompt 'p0'", "2 as most prompts have", "got 3")),
    (lambda t: pd.concat([t, t.iloc[4:5]]), (), ("prompt p2, answer a0 is in rows 6 and 18",)),
    (lambda t: t.assign(**{"ai 1": 3.0}), (), ("ai 1: is constant",)),
    (lambda t: t.assign(**{"ai 1": np.repeat(np.arange(8.0), 2)}), (), ("ai 1: is indifferent between all answers",)),
    (lambda t: t.assign(human=1.0), (), ("human: is constant",)),
    (lambda t: change(t, 5, "ai 0", "good"), (), ("ai 0: row 7: expected a number, got 'good'", "table.agents")),
    (lambda t: change(t, 5, "prompt", ""), (), ("prompt: row 7: is empty",)),
    (lambda t: t.assign(human=np.nan), (), ("8 of 8 prompts", "without a value of human (16)")),
    (lambda t: t.head(6), (), ("3 prompts are left, expected at least 4",)),
    (lambda t: t.assign(topic=range(16)), ("--topic", "topic"), ("topic: row 2: expected one topic",)),
    (lambda t: t, ("--agents", "ai 0,human"), ("table.agents: 'human' is the target",)),
    (lambda t: t, ("--agents", "ai 0,ai 9"), ("table.agents: there is no column 'ai 9'; did you mean ai",)),
    (lambda t: t, ("--agents", "ai 0"), ("table.agents: expected at least 2", "got 1")),
    (lambda t: t, ("--agents", "ai 0,ai 0"), ("table.agents: expected distinct values",)),
    (lambda t: t, ("--target", "humam"), ("table.target: there is no column 'humam'; did you mean human?",)),
    (lambda t: t, ("--id", "promt"), ("table.id: there is no column 'promt'; did you mean prompt?",)),
    (lambda t: t, ("--id", "answer"), ("table.id: 'answer' is named twice",)),
    (lambda t: t, ("--n", "2,9"), ("market.n: expected at most 3", "got 9")),
    (lambda t: t, ("--n", "1,2"), ("--n: expected an integer >= 2, got 1",)),
    (lambda t: t.reset_index().rename(columns={"index": ""}), (), ("row 1: column 1 has no name",)),
    (lambda t: t, ("--set", "market.n=[2, 3.5]"), ("market.n: expected an integer, got 3.5",)),
    (lambda t: t, ("--n", "few"), ("--n: expected integers separated by commas",)),
    (lambda t: t, ("--accept", "3"), ("expected one of them", "not both")),
    (lambda t: t, ("--bootstrap", "-1"), ("market.bootstrap: expected >= 0, got -1",)),
    (lambda t: t, ("--set", "market.test_share=1.0"), ("market.test_share: expected less than 1",)),
    (lambda t: t, ("--target-value", "9"), ("market.target_value: expected at most what all", "got 9")),
    (lambda t: t, ("--set", "market.share=1"), ("market.share: no such key",)),
    (lambda t: t, ("--set", "table.target=human"), ("table.target: is given by an option too",)),
    (lambda t: t, ("--encoding", "utf-9"), ("No such option",)),
]


@pytest.mark.parametrize(("damage", "more", "words"), TABLES)
def test_bad_answers_are_refused_in_one_line(run, damage, more, words):
    damage(save()).to_csv("t.csv", index=False)
    assert refused(run(*ANSWERS, *more), *words)
    assert [path.name for path in Path().iterdir()] == ["t.csv"]


@pytest.mark.parametrize(
    ("accept", "words"),
    [
        ("0.5", "table.accept: expected a threshold between the ratings, which are 1 to 5, got 0.5"),
        ("5", "table.accept: expected a threshold between the ratings"),
        ("mean", "table.accept: expected a number or own-mean, got 'mean'"),
        ("nan", "table.accept: expected a number, got nan"),
    ],
)
def test_bad_thresholds_are_refused(run, accept, words):
    ratings()
    assert refused(run("market", "r.csv", "--accept", accept, "--id", "film", "--target", "ann"), words)


def test_other_bad_input(run, monkeypatch):
    save()
    assert refused(run("market", "t.csv", "--target", "human"), "table.answers, table.accept", "neither was given")
    named = run("market", "t.csv", "--accept", "3", "--answer", "model", "--target", "human")
    assert refused(named, "table.answer: belongs to table.answers; leave it out with table.accept")
    assert refused(run("market", "t.csv", "--answers"), "table.target: expected the column of the user, one of prompt")
    assert refused(run("market", "gone.csv", "--answers", "--target", "human"), "gone.csv")
    assert refused(run("market", "gone.toml"), "gone.toml: no such file")
    Path("s.toml").write_text("[table]\nanswers = true\n")
    assert refused(run("market", "s.toml"), "s.toml: table.file: expected the name of a table")
    frame = ratings()
    frame.assign(film="f0").to_csv("r.csv", index=False)
    assert refused(
        run("market", "r.csv", "--accept", "3", "--id", "film", "--target", "ann"), "film f0 is in rows 2 and 3"
    )
    np.savez("t.npz", user_utility=np.zeros((2, 2, 5)), agent_utilities=np.ones((2, 3, 2, 5)))
    assert refused(run("market", "t.npz", "--answers", "--target", "a"), "table.target: names a column")
    from emalign_jax.experiments.market import table as reading

    monkeypatch.setattr(reading, "COPIES", 10**12)
    assert refused(run(*ANSWERS), "a market of 3 agents, 8 prompts and 2 actions would take about")
