"""`emalign stability` from the command line: table, figure, JSON, exit codes, bad input."""

import json

import numpy as np
import pytest
from support.commands import refused

import emalign_jax as em
from emalign_jax.report.figures import stability as figures
from emalign_jax.report.look import Look

pytestmark = [pytest.mark.usefixtures("empty_directory"), pytest.mark.host_only]

PNG = b"\x89PNG"


def judges(count, prosecutors=2):
    """Judges of priors .1 to .4: every value from 1 - prior to 1."""
    games = [em.catalog.judge(prior, prosecutors) for prior in np.linspace(0.1, 0.4, count)]
    return em.Game(*(np.stack([getattr(g, name) for g in games]) for name in FIELDS))


FIELDS = ("prior", "user_utility", "agent_utilities")


def save_several(path):
    """Three games of K = 1 and three of K = 2 in one file."""
    one, two = judges(3, 1), judges(3, 2)
    padded = np.concatenate(
        [np.pad(one.agent_utilities, ((0, 0), (0, 1), (0, 0), (0, 0)), constant_values=np.nan), two.agent_utilities]
    )
    np.savez(
        path,
        prior=np.concatenate([one.prior, two.prior]),
        user_utility=np.concatenate([one.user_utility, two.user_utility]),
        agent_utilities=padded,
        agents=np.array([1, 1, 1, 2, 2, 2]),
    )


def table_of(out):
    """The lines of the table, head first."""
    return out.split("\n\n")[0].splitlines()


@pytest.mark.slow
def test_table_and_figure(run, tmp_path):
    em.save_games("g.npz", em.catalog.two_prosecutors())
    code, out, err = run("stability", "g.npz")
    assert (code, err) == (0, "")
    assert "0.700000" in out
    assert "Solved." in out
    assert "Figure: stability.png" in out
    assert (tmp_path / "stability.png").read_bytes().startswith(PNG)
    assert run("stability", "g.npz")[1].endswith("Figure: stability-2.png\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g.npz", "stability-2.png", "stability.png"]


@pytest.mark.slow
def test_several_sizes_in_one_table_that_lines_up(run):
    save_several("g.npz")
    code, out, _ = run("stability", "g.npz")
    assert code == 0
    lines = table_of(out)
    assert len(lines) == 7
    assert len({line.index("Solved.") for line in lines[1:]} | {lines[0].index("result")}) == 1, "the columns line up"
    assert [line.split()[0] for line in lines[1:]] == ["1"] * 3 + ["2"] * 3
    assert "K = 1: 3 games" in out
    assert "K = 2: 3 games" in out


@pytest.mark.slow
def test_json(run, tmp_path):
    save_several("g.npz")
    code, out, err = run("stability", "g.npz", "--json")
    document = json.loads(out)
    assert (code, err, document["schema"]) == (0, "", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["g.npz"], "no figure unless asked for"
    entries = document["games"]
    assert [(entry["K"], entry["game"]) for entry in entries] == [(k, n) for k in (1, 2) for n in range(3)]
    for entry, prior in zip(entries, [0.1, 0.25, 0.4] * 2, strict=True):
        assert entry["no_information"] == pytest.approx(1 - prior)
        assert entry["full_information"] == pytest.approx(1)
        assert entry["worst"] == pytest.approx(1 - prior)
        assert entry["best"] == pytest.approx(1 if entry["K"] == 2 else 1 - prior)
        assert entry["equilibria"] == [[entry["worst"], entry["best"]]]
        assert len(entry["value"]) == len(entry["gap"]) == len(entry["zero"]) == 2
        assert entry["normalised_worst"] == pytest.approx(0, abs=1e-9)
    summary = document["summary"]
    assert (summary["games"], summary["failed"], summary["figure"]) == (6, 0, None)
    assert [line["share_none"] for line in summary["by_agents"]] == [1, 1]
    code, out, _ = run("stability", "g.npz", "--json", "--figure", "f.png")
    assert json.loads(out)["summary"]["figure"] == "f.png"
    assert (tmp_path / "f.png").read_bytes().startswith(PNG)


@pytest.mark.slow
def test_a_malformed_game_and_one_of_no_worth(run):
    games = judges(4)
    prior, user = games.prior.copy(), games.user_utility.copy()
    prior[2, 0, 0, 0] = np.nan
    user[1] = 0
    em.save_games("g.npz", em.Game(prior, user, games.agent_utilities, check="shapes"))
    code, out, _ = run("stability", "g.npz")
    assert code == 1
    first = table_of(out)[1]
    assert first.split()[:2] == ["2", "2"], "what failed comes first"
    assert "malformed" in first
    assert "K = 2: 4 games (1 failed, 1 in which information is worth nothing)" in out
    code, out, _ = run("stability", "g.npz", "--json")
    document = json.loads(out)  # NaN would not be JSON
    assert code == 1
    assert document["games"][2]["worst"] is None
    assert document["games"][2]["value"] == []
    assert document["games"][1]["normalised_worst"] is None
    assert [entry["code"] for entry in document["games"]].count("MALFORMED") == 1
    assert document["summary"]["failed"] == 1


@pytest.mark.slow
def test_only_the_first_rows_are_printed(run):
    em.save_games("g.npz", judges(60))
    code, out, _ = run("stability", "g.npz")
    assert code == 0
    assert len(table_of(out)) == 52
    assert "... and 10 more" in out


def test_all_games_worth_nothing(run, tmp_path):
    games = judges(2)
    em.save_games("g.npz", em.Game(games.prior, 0 * games.user_utility, games.agent_utilities))
    code, out, _ = run("stability", "g.npz", "--json")
    assert code == 0
    assert json.loads(out)["summary"]["by_agents"][0]["median_worst"] is None
    code, out, _ = run("stability", "g.npz")
    assert code == 0
    assert "worth nothing" in out
    assert (tmp_path / "stability.png").read_bytes().startswith(PNG)


@pytest.mark.slow
def test_nothing_is_overwritten_without_force(run, tmp_path):
    em.save_games("g.npz", em.catalog.pharma_market())
    (tmp_path / "mine.png").write_text("a holiday")
    assert refused(run("stability", "g.npz", "--figure", "mine.png"), "mine.png", "--force")
    assert (tmp_path / "mine.png").read_text() == "a holiday"
    assert run("stability", "g.npz", "--figure", "mine.png", "--force")[0] == 0
    assert (tmp_path / "mine.png").read_bytes().startswith(PNG)
    assert run("stability", "g.npz", "--figure", "paper.pdf")[0] == 0
    assert (tmp_path / "paper.pdf").read_bytes().startswith(b"%PDF")


def test_a_failure_while_drawing_costs_no_result(run, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    em.save_games("g.npz", em.catalog.judge())
    (tmp_path / "old.png").write_text("old")
    monkeypatch.setattr(figures, "draw", full)
    for options in ([], ["--figure", "old.png", "--force"]):
        code, out, err = run("stability", "g.npz", *options)
        assert code == 1
        assert "normalised worst equilibrium" in out
        assert err.count("\n") == 1
        assert "No space left" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g.npz", "old.png"]
    assert (tmp_path / "old.png").read_text() == "old"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.npz"], ["nowhere.npz", "no such file"]),
        (["g.npz", "--figure", "nowhere/f.png"], ["nowhere/f.png", "cannot be written"]),
        (["g.npz", "--figure", "folder.png"], ["folder.png", "expected a file"]),
        (["g.npz", "--figure", "f.jpeg"], ["f.jpeg", ".png"]),
        (["g.npz", "--nonsense"], ["--nonsense"]),
        (["large.npz"], ["large.npz", "columns"]),
        (["text.npz"], ["text.npz"]),
        (["bad.npz"], ["bad.npz", "sum to 1"]),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, arguments, words):
    em.save_games("g.npz", em.catalog.judge())
    em.save_games("large.npz", em.Game(np.full((8, 2, 2), 1 / 32), np.eye(4, 2), np.ones((2, 4, 2))))
    (tmp_path / "text.npz").write_text("no archive")
    np.savez("bad.npz", prior=np.full((1, 2, 2), 0.3), user_utility=np.eye(2), agent_utilities=np.ones((1, 2, 2)))
    (tmp_path / "folder.png").mkdir()
    before = sorted(path.name for path in tmp_path.iterdir())
    assert refused(run("stability", *arguments), *words)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_help(run):
    code, out, err = run("stability", "--help")
    assert (code, err) == (0, "")
    assert "Examples:" in out
    assert "emalign stability games.npz" in out
    assert "stability" in run("--help")[1]


@pytest.mark.slow
def test_figures_hold_what_they_say():
    """A line a game up to six, a jump and isolated points among them; quantiles and steps beyond."""
    rows = []
    for game in (em.catalog.two_prosecutors(), em.catalog.pharma_market(), em.catalog.lobbying()):
        rows += figures.profiles(em.stability(game), ["x"])
    (axis,) = figures.figure(rows, Look()).axes
    one, bar, two, _, _, *dots = [line.get_xydata() for line in axis.lines[:7]]
    np.testing.assert_array_equal(one[:, 1], [0, 0])
    np.testing.assert_allclose(bar[:, 0], [0, 1], atol=1e-9)
    assert two[-1, 1] > 0.05, "the line of the pharma market ends before its jump"
    assert [tuple(dot[:, 0]) for dot in dots] == [(1, 1), (1,)]
    many = figures.profiles(em.stability(judges(5))) + figures.profiles(em.stability(judges(5, 1)))
    left, right = figures.figure(many, Look()).axes
    assert len(left.lines) == 4  # median and 90 % for two K
    # one prosecutor alone keeps 1 + p - v of 2 p: at V_full it loses p, half of its range
    np.testing.assert_allclose(left.lines[1].get_ydata()[[0, -1]], [0, 0.5], atol=1e-7)
    np.testing.assert_allclose(right.lines[0].get_ydata()[-1], 1)


def test_comparison_of_some_agents(run):
    em.save_games("g.npz", judges(2, 3))
    code, out, err = run("stability", "g.npz", "--set", "protocol.compare=2")
    assert (code, err) == (0, "")
    assert "worst at least" in out
    assert "Solved." in out
    document = json.loads(run("stability", "g.npz", "--set", "protocol.compare=2", "--json")[1])
    found = em.equilibrium_bounds(judges(2, 3), em.Comparison(2))
    assert [game["at_least"] for game in document["games"]] == found.at_least.tolist()
    assert [game["best"] for game in document["games"]] == found.best.tolist()
    same = json.loads(run("stability", "g.npz", "--set", "protocol.compare=3", "--json")[1])
    assert [game["worst"] for game in same["games"]] == em.stability(judges(2, 3)).worst.tolist()


def test_a_user_who_misreads_beliefs(run):
    em.save_games("g.npz", judges(2))
    document = json.loads(run("stability", "g.npz", "--set", "user.weight=0.8", "--json")[1])
    found = em.stability(judges(2), user=em.Conservative(em.RationalUser(), 0.8))
    assert [game["worst"] for game in document["games"]] == found.worst.tolist()
    assert [game["perceived_worst"] for game in document["games"]] == found.perceived_worst.tolist()


def test_settings_that_are_refused(run):
    em.save_games("g.npz", judges(2, 3))
    for wrong, words in (
        (("--set", "solver.starts=2"), "solver.starts"),
        (("--set", "protocol.kind=pooled"), "protocol, user"),
        (("--set", "protocol.compare=2", "--figure", "x.png"), "--figure"),
        (("--set", "protocol.compare=2", "--format", "pdf"), "--format"),
        (("--set", "protocol.compare=2", "--width", "3.25"), "--width"),
        (("--set", "protocol.compare=[2,3]"), "one value"),
    ):
        code, _, err = run("stability", "g.npz", *wrong)
        assert code == 2
        assert words in err
