"""`em.plot`: each figure shows its numbers, at print size, within its edges, in fonts that papers take."""

import re
import subprocess
from pathlib import Path
from shutil import which

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

import emalign_jax as em
from emalign_jax.experiments.grid.table import means
from emalign_jax.experiments.grid.threshold import Threshold
from emalign_jax.report import style
from emalign_jax.report.figures import market, phase, stability, tuning, values
from emalign_jax.report.look import FULL, NARROW, Look
from emalign_jax.tuning import Tuned

pytestmark = pytest.mark.host_only

HOSTILE = (
    "$\\frac{",
    "<b>bold</b>",
    "two\nlines",
    "a name that is much longer than any column of a paper is wide",
    "x_1^",
)


def axes(width=NARROW):
    return Figure(figsize=(width, 2.9), layout="constrained").subplots()


def games(families=1, numbers=(1, 2, 3), count=4):
    """A table of games by hand, with what is not known of a single agent."""
    rng = np.random.default_rng(0)
    rows = [
        {"family": f"family {f}", "agents": K, "game": n, "start": 0, "games.bias": float(f), "normalised_value": v}
        | {"normalised_worst_equilibrium": v / 2 if K > 1 else np.nan, "normalised_best_equilibrium": 1.0}
        | {"normalised_guarantee": v / 4, "normalised_best_monopolist": v / 3, "normalised_theorem": v - 0.6}
        for f in range(families) for K in numbers for n, v in enumerate(rng.uniform(0.2, 1, count))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def tuned(steps=5, restarts=3):
    rng = np.random.default_rng(0)
    history = {name: rng.uniform(size=(steps, restarts)) for name in ("objective", "value", "cost", "trusted")}
    history["skipped"] = np.eye(steps, restarts)
    return Tuned(None, {}, history, jnp.zeros((1, 1, 1, 1)), np.zeros(1, int), 3)


def trajectories(steps=(4, 2), certificate=None):
    """Two games of two agents, by hand."""
    nan = np.nan
    kept = em.Trajectory(
        np.array(steps),
        np.array([[0, 1, 2, 4], [0, 4, -1, -1]]),
        np.array([[0.1, 0.4, 0.3, 0.5], [0.7, 0.8, nan, nan]]),
        np.arange(16.0).reshape(2, 4, 2),
        np.array([[[0.1, 0.2], [nan, nan], [1e-3, 0.0], [0.0, 0.0]], [[nan] * 2] * 4]),
        np.array([[0, 1, 1, 0], [-1, -1, -1, -1]]),
    )
    codes = np.zeros(2, int)
    nothing = np.zeros((2, 2, 1, 1)), np.zeros(2), np.zeros((2, 2))
    return em.Solution(*nothing, codes, codes, None, {}, certificate, kept)


def market_values(agents=3):
    share = np.linspace(0, 1, agents)
    return em.MarketValues(1.0, 3.0, 1 + share, 2.5, 3.0, 1.2, 0.1, 3 - share)


def hull_table():
    rng, rows = np.random.default_rng(0), []
    for offset in ("none", "constant"):
        for method in ("best single", "mean", "simplex", "cone"):
            for n in (1, 5, 20):
                held = rng.uniform(0.5, 1)
                row = {"offset": offset, "method": method, "agents": n, "held_out": held, "in_sample": held / 2}
                rows.append(row | {"held_out_low": held - 0.1, "held_out_high": held + 0.1, "no_agent": 1.0})
    return pd.DataFrame(rows)


def left_out(count=6):
    error = np.linspace(0.1, 0.6, count)
    more = {"without_one": 1.1 * error, "without_five_lower": 1.2 * error, "without_five_upper": 1.3 * error}
    return pd.DataFrame({"error": error, "no_agent": 2.0} | more)


def study_lines():
    arms = {"competition": [0.9, 0.7], "best": [0.6, 0.5], "average": [0.4, 0.3], "aligned": [1.0, 0.9]}
    return pd.DataFrame(arms | {"over_best_low": [0.2, 0.1], "over_best_high": [0.4, 0.3], "strength": [np.inf, 5.0]})


def market_rows():
    one = {"kind": "all", "resample": 0, "normalised_guarantee": 0.1, "hull_error": 0.4, "no_agent_error": 0.6}
    sizes = ((2, 0.5, "subset"), (5, 0.8, "subset"), (9, 0.9, "all"))
    return pd.DataFrame(
        [
            one | {"agents": n, "kind": kind, "normalised_worst": v, "normalised_best_monopolist": v / 2}
            for n, v, kind in sizes
        ]
    )


def stable(count=1):
    """Stability profiles by hand: two breakpoints, equilibria at full information alone."""
    shape = (count, 3)
    gap = np.broadcast_to([0.4, 0.2, 0.0], shape) * np.arange(1, count + 1)[:, None]
    value = np.broadcast_to([0.0, 0.5, 1.0], shape)
    ones, zeros, codes = np.ones(count), np.zeros(count), np.zeros(count, int)
    payoffs = np.ones((count, 2))
    return em.Stability(
        ones, ones, ones, ones, value, gap, gap == 0, zeros, ones, payoffs, codes, np.zeros(count, bool)
    )


JUDGE = em.catalog.judge()
NAMED = em.Game(
    np.full((1, 3, 3), 1 / 9), np.eye(4, 3), np.ones((2, 4, 3)) * np.arange(4)[:, None],
    labels=em.Labels(actions=("$\\frac{", "<b>", "keep", "x_1^ and more words than fit"), agents=("$a", "b")),
)  # fmt: skip
TALK = em.Conversation(2, 2)
RULES = np.full((1, TALK.rows(JUDGE, 2), 2), 0.5)
# A call of every function, as `ax=...` completes it.
CALLS = {
    "agents_removed": lambda ax: em.plot.agents_removed(left_out(), tolerance=0.2, ax=ax),
    "before_and_after": lambda ax: em.plot.before_and_after(
        pd.DataFrame({"user_before": [0.1, 0.5], "user_after": [0.3, np.nan]}), ax=ax
    ),
    "beliefs": lambda ax: em.plot.beliefs(NAMED, np.full((2, 3, 5), 0.2), user=em.QuantalUser(3.0), ax=ax),
    "hull_curves": lambda ax: em.plot.hull_curves(hull_table(), offset="none", ax=ax),
    "market": lambda ax: em.plot.market(market_values(5), names=list(HOSTILE), ax=ax),
    "market_against_agents": lambda ax: em.plot.market_against_agents(market_rows(), ax=ax),
    "phase_diagram": lambda ax: em.plot.phase_diagram(games(3), "games.bias", "agents", ax=ax),
    "schemes": lambda ax: em.plot.schemes(NAMED, np.full((2, 3, 5), 0.2), user=em.RationalUser(), ax=ax),
    "stability_profile": lambda ax: em.plot.stability_profile(stable(5), names=list(HOSTILE), ax=ax),
    "study": lambda ax: em.plot.study(study_lines(), departure="user.precision", ax=ax),
    "trajectory": lambda ax: em.plot.trajectory(trajectories(), 0, ax=ax),
    "transcript_tree": lambda ax: em.plot.transcript_tree(JUDGE, RULES, TALK, em.QuantalUser(3.0), ax=ax),
    "tuning": lambda ax: em.plot.tuning(tuned(), ax=ax),
    "value_against": lambda ax: em.plot.value_against(games(12), "agents", by=["games.bias"], ax=ax),
    "value_against_agents": lambda ax: em.plot.value_against_agents(games(), ax=ax),
    "value_over_games": lambda ax: em.plot.value_over_games(games(12), ax=ax),
    "worst_equilibria": lambda ax: em.plot.worst_equilibria(stable(3), ax=ax),
}


@pytest.mark.slow
def test_every_function_has_a_call():
    assert {*CALLS, "panels", "save"} == set(em.plot.__all__) == {*em.plot.__all__} & set(dir(em.plot))
    for name in em.plot.__all__:
        assert callable(getattr(em.plot, name))


def check(figure):
    """All lies within the figure, words in fonts of at least 7 points; no legend has more than five entries."""
    figure.draw_without_rendering()
    figure.draw_without_rendering()  # as `save` does
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 > -0.02, box
    assert box.y0 > -0.02, box
    assert box.x1 < width + 0.02, box
    assert box.y1 < height + 0.02, box
    assert min(text.get_fontsize() for text in figure.findobj(Text)) >= style.SMALL
    legends = [*figure.legends, *(ax.get_legend() for ax in figure.axes if ax.get_legend())]
    assert all(len(legend.texts) <= style.MOST for legend in legends)


@pytest.mark.parametrize("width", [NARROW, FULL])
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.slow
def test_text_is_legible_and_inside(name, width):
    with mpl.rc_context():
        given = axes(width)
        assert CALLS[name](given) is given
        check(given.figure)


@pytest.mark.slow
def test_new_axes_grow_with_their_legends(monkeypatch):
    """Without `ax` there is a figure of pyplot, which notebooks show; and the style is gone afterwards."""
    before = dict(mpl.rcParams)
    try:
        for name, call in CALLS.items():
            ax = call(None)
            assert isinstance(ax, Axes), name
            check(ax.figure)
    finally:
        pyplot.close("all")
    assert dict(mpl.rcParams) == before


@pytest.mark.slow
def test_fonts_of_pdfs_are_truetype(tmp_path):
    """Type 3 fonts are refused by submission checkers."""
    for name in ("beliefs", "market", "study"):  # with a picture inside, hostile names, and a letter beyond Latin
        assert em.plot.save(CALLS[name](axes()), tmp_path / f"{name}.pdf") == [f"{name}.pdf"]
        assert b"/Type3" not in (tmp_path / f"{name}.pdf").read_bytes(), name
    for kind in ("svg", "pdf"):
        for name in ("one", "other"):
            em.plot.save(CALLS["study"](axes()), str(tmp_path / f"{name}.{kind}"))
        assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"other.{kind}").read_bytes(), "the same figure"
    if which("pdffonts"):
        told = subprocess.run(["pdffonts", tmp_path / "beliefs.pdf"], capture_output=True, text=True, check=True).stdout
        kinds = [line[37:55].strip() for line in told.splitlines()[2:]]
        assert set(kinds) <= {"TrueType", "CID TrueType"}
        assert kinds


@pytest.mark.slow
def test_figures_saved_by_matplotlib_itself_have_truetype_fonts(tmp_path):
    before = dict(mpl.rcParams)
    try:
        figures = em.plot.worst_equilibria(stable(3)).figure, em.plot.panels(1)[0]
        figures[1].axes[0].set_title("words")
        for figure in figures:
            figure.savefig(tmp_path / "figure.pdf")
            written = (tmp_path / "figure.pdf").read_bytes()
            assert b"/Type3" not in written
            assert b"/CIDFontType2" in written
    finally:
        pyplot.close("all")
    assert dict(mpl.rcParams) == before


@pytest.mark.slow
def test_a_result_is_as_good_as_its_table():
    found = em.solve(em.random_games(0, 3, agents=2), em.Selection(), em.RationalUser(), start="monopolist")
    drawn, table = axes(), axes()
    em.plot.value_over_games(found, ax=drawn)
    em.plot.value_over_games(found.to_pandas(), ax=table)
    np.testing.assert_array_equal(drawn.lines[0].get_xydata(), table.lines[0].get_xydata())


@pytest.mark.slow
@pytest.mark.parametrize("width", [NARROW, FULL])
def test_whole_figures(width):
    look, rows, title = Look(width), games(12), "\n".join(HOSTILE)
    stops = [Threshold("family 0", 2, 0.5, -np.inf, np.inf)]
    outcome = tuning.Outcome(
        {}, tuned().history, pd.DataFrame({"user_before": [0.1, 0.5], "user_after": [0.3, 0.4]}), 0.1
    )
    spread = rows[rows["agents"] == 2]
    figures = [
        values.figure(means(rows, ["family", "agents"]), "agents", [], title, look),
        values.figure(means(games(), ["family", "agents", "games.bias"]), "games.bias", ["agents"], title, look),
        values.over_games(spread, title, look),
        values.over_games(spread.iloc[:4], title, look),
        phase.figure(games(2), "games.bias", "agents", title, look, stops),
        stability.figure(stability.profiles(stable(3)), look),
        stability.figure(stability.profiles(stable(9)), look),
        tuning.figure(outcome, title, look),
    ]
    for figure in figures:
        assert figure.get_figwidth() == width
        check(figure)


def test_lines_hold_the_means_and_their_intervals():
    rows = games(1, numbers=(1, 2))
    ax = em.plot.value_against_agents(rows, ax=axes())
    lines = {line.get_label(): line.get_ydata() for line in ax.lines}
    means_ = rows.groupby("agents").mean(numeric_only=True)
    for role, column in {"best": "best_equilibrium", "worst": "worst_equilibrium", "guarantee": "guarantee"}.items():
        np.testing.assert_allclose(lines[style.WORDS[role]], means_[f"normalised_{column}"])
    np.testing.assert_allclose(lines["equilibrium found, 95 % interval"], means_["normalised_value"])
    (intervals,) = ax.collections
    own = rows.loc[rows["agents"] == 2, "normalised_value"]
    half = 1.96 * own.std() / np.sqrt(4)
    np.testing.assert_allclose(intervals.get_segments()[1][:, 1], [own.mean() - half, own.mean() + half])
    assert ax.get_xlabel() == "agents K (n = 4)"
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "2"]


def test_starts_are_averaged_within_games():
    rows = pd.concat([games(count=2), games(count=2).assign(start=1)])
    line = means(rows, ["family", "agents"]).iloc[0]
    once = means(games(count=2), ["family", "agents"]).iloc[0]
    assert (line["games"], line["low"]) == (2, once["low"])


def test_many_lines_have_labels_beside_them():
    ax = em.plot.value_against(games(12), "agents", by=["family"], ax=axes(FULL))
    named = {text.get_text(): text for text in ax.texts}
    assert set(named) <= {f"family {n}" for n in range(12)}
    assert len(named) >= 6
    heights = sorted(text.get_position()[1] for text in named.values())
    assert np.diff(heights).min() > 1.2 * style.SMALL / (72 * style.inches(ax)[1])
    lines = {line.get_color(): line for line in ax.lines if line.get_marker() == "o" and len(line.get_xdata())}
    assert len(lines) == 12


def test_a_map_holds_the_means():
    rows = games(3, numbers=(2, 3))
    ax = em.plot.phase_diagram(rows, "games.bias", "agents", bar=False, ax=axes())
    table = rows.pivot_table(index="agents", columns="games.bias", values="normalised_worst_equilibrium")
    np.testing.assert_allclose(ax.images[0].get_array(), table)
    assert {float(text.get_text()) for text in ax.texts} == {round(x, 2) for x in table.to_numpy().ravel()}


def test_a_profile_and_its_equilibria():
    ax = em.plot.stability_profile(stable(1), ax=axes())
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[0, 0.2], [0.5, 0.1], [1, 0]])  # of two agents' ranges
    assert [line.get_xdata()[0] for line in ax.lines[1:3]] == [1, 1]
    assert len(em.plot.stability_profile(stable(7), ax=axes()).collections) == 1, "a band beyond six games"


@pytest.mark.slow
def test_beliefs_show_the_judge(tmp_path):
    """Kamenica and Gentzkow: prior .3; the prosecutor's best messages leave 0 (40 %) and .5 (60 %), worth .6."""
    told = em.solve(JUDGE, em.Selection(), em.RationalUser(), start="monopolist")
    ax = em.plot.beliefs(JUDGE, told, ax=axes())
    (envelope,) = [line for line in ax.lines if line.get_label() == "concavification"]
    assert np.interp(0.3, *envelope.get_xydata().T) == pytest.approx(0.6, abs=1e-6)
    best = next(line for line in ax.lines if line.get_marker() == "D")
    np.testing.assert_allclose(np.sort(best.get_xydata(), 0), [[0, 0], [0.5, 1]], atol=1e-6)
    curve = ax.lines[1]
    assert np.interp([0.3, 0.7], *curve.get_xydata().T).tolist() == [0, 1]
    sizes = ax.collections[0].get_sizes()
    np.testing.assert_allclose(np.sort(sizes) / sizes.sum(), [0.4, 0.6], atol=1e-5)
    assert {"acquit", "convict"} <= {text.get_text() for text in ax.texts}


@pytest.mark.slow
def test_the_envelope_is_that_of_the_belief_lp():
    """At priors other than the game's, by games with those priors."""
    from emalign_jax.exact.concavification.envelope import belief_values, beliefs_of_interest, upper_faces
    from emalign_jax.games.game import reduce_game

    game, user = em.random_games(5, 1, agents=1, states=3, actions=4)[0], em.RationalUser()
    reduced = reduce_game(game, np)
    points = beliefs_of_interest(reduced, user, 0, 1000)
    value = belief_values(reduced, user, 0, points).own
    faces = upper_faces(points, value)
    silent = np.ones((1, 3, 1))
    for prior in np.random.default_rng(0).dirichlet(np.ones(3), 4):
        scaled = np.asarray(game.prior) * (prior / reduced.mass.sum(0))[None, :, None]
        other = em.Game(scaled, game.user_utility, game.agent_utilities)
        exact = em.best_response(other, silent, 0, em.Selection(), user).value
        corners = points[faces.corners]  # [F, 3, 3]
        weights = np.linalg.solve(
            corners.swapaxes(1, 2) + 1e-13 * np.eye(3), np.broadcast_to(prior[:, None], (len(corners), 3, 1))
        )
        inside = (weights[..., 0] > -1e-9).all(1)
        height = (weights[inside, :, 0] * value[faces.corners[inside]]).sum(1)
        assert height.max() == pytest.approx(exact, abs=1e-5)


@pytest.mark.slow
def test_bars_hold_the_schemes():
    schemes = np.array([[[0.25, 0.75], [1.0, 0.0]]])
    ax = em.plot.schemes(JUDGE, schemes, user=em.RationalUser(), ax=axes(FULL))
    assert [round(bar.get_width(), 6) for bar in ax.patches] == [0.25, 0.75, 1.0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["x_B is innocent", "x_B is guilty"]
    assert {"prosecutor", "0: convict", "1: acquit"} <= {text.get_text() for text in ax.texts}
    many = em.Game(JUDGE.prior, JUDGE.user_utility, np.repeat(JUDGE.agent_utilities, 300, 0))
    ax = em.plot.schemes(many, np.full((300, 2, 2), 0.5), ax=axes())
    assert len(ax.patches) == 72
    assert "564 more bars" in ax.get_xlabel()


def test_a_market_agent_by_agent():
    ax = em.plot.market(market_values(3), names=["a", "b", "c"], ax=axes())
    alone, without, worst = ax.lines[:3]
    np.testing.assert_allclose(alone.get_xdata(), [0.5, 0.25, 0])  # the best first
    np.testing.assert_allclose(without.get_xdata(), [0.5, 0.75, 1])
    assert worst.get_xdata()[0] == 0.75
    assert [text.get_text() for text in ax.get_yticklabels()] == ["c", "b", "a"]
    assert not em.plot.market(market_values(200), ax=axes()).get_yticks().size
    ax = em.plot.market_against_agents(market_rows(), show="hull", ax=axes())
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[2, 0.4], [5, 0.4], [9, 0.4]])
    nothing = market_values().replace(full=1.0)
    assert em.plot.market(nothing, ax=axes()).get_xlabel()


def test_a_study_a_tuning_and_the_hull():
    ax = em.plot.study(study_lines(), departure="user.precision", ax=axes())
    lines = {line.get_label(): line.get_ydata() for line in ax.lines}
    np.testing.assert_allclose(lines["competition of K"], [0.9, 0.7])
    np.testing.assert_allclose(ax.collections[0].get_segments()[0][:, 1], [0.8, 1.0])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["\N{INFINITY}", "5"]
    found = tuned()
    ax = em.plot.tuning(found, ax=axes())
    best = int(found.history["objective"][-1].argmax())
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), found.history["objective"][:, best])
    assert len(next(line for line in ax.lines if line.get_marker() == "x").get_xdata()) == 3
    curves = hull_table()
    ax = em.plot.hull_curves(curves, offset="none", ax=axes())
    own = curves[(curves["offset"] == "none") & (curves["method"] == "simplex")]
    line = next(line for line in ax.lines if line.get_label() == "simplex weights")
    np.testing.assert_allclose(line.get_ydata(), own["held_out"])
    ax = em.plot.agents_removed(left_out(), ax=axes())
    np.testing.assert_allclose(ax.lines[0].get_xdata()[1:], left_out()["error"] / 2)


def test_a_tree_has_the_lines_of_the_transcript():
    ax = em.plot.transcript_tree(JUDGE, RULES, TALK, em.QuantalUser(3.0), ax=axes(FULL))
    text = em.transcript_tree(JUDGE, RULES, TALK, em.QuantalUser(3.0))
    told = [line.get_text() for line in ax.texts]
    assert sum(words.startswith("agent says") for words in told) == text.count("agent says")
    assert sum(words.startswith("user replies") for words in told) == text.count("user replies")
    bars = np.array([bar.get_width() for bar in ax.patches]).reshape(-1, 2)
    np.testing.assert_allclose(bars / bars.sum(1, keepdims=True), np.broadcast_to([0.7, 0.3], bars.shape))


def test_a_trajectory_shows_its_numbers():
    value = em.plot.trajectory(trajectories(), 0, ax=axes())
    np.testing.assert_array_equal(value.lines[0].get_xydata(), [[0, 0.1], [1, 0.4], [2, 0.3]])
    returned = next(line for line in value.lines if line.get_marker() == "D")
    np.testing.assert_array_equal(returned.get_xydata(), [[3, 0.5]])
    assert [round(bar.get_x() + 0.5) for bar in value.patches] == [0, 3, 1, 2]  # agent 0 is picked at 0 and 3
    assert len({bar.get_facecolor() for bar in value.patches}) == 2
    payoffs = em.plot.trajectory(trajectories(), 0, show="payoffs", ax=axes())
    np.testing.assert_array_equal(payoffs.lines[0].get_ydata(), [0, 2, 4])
    gains = em.plot.trajectory(trajectories(), 0, show="gains", ax=axes())
    np.testing.assert_array_equal(gains.lines[0].get_ydata(), [0.1, np.nan, 1e-3])
    assert gains.get_ylim()[1] > 0.2
    em.plot.trajectory(trajectories(), 1, show="gains", ax=axes())  # none is known
    assert not em.plot.trajectory(trajectories(), 1, ax=axes()).patches  # nobody is picked


@pytest.mark.slow
def test_a_trajectory_of_solve():
    two = em.random_games(0, 2, agents=2, states=2, actions=2)
    found = em.solve(two, em.Selection(), em.RationalUser(), em.BestResponseDynamics(), key=0, record=True)
    value = em.plot.trajectory(found, 1, ax=axes())
    levels = [line.get_ydata()[0] for line in value.lines if line.get_linestyle() == ":"]
    np.testing.assert_allclose(levels, [found.certificate.no_information[1], found.certificate.full_information[1]])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: em.plot.trajectory(trajectories(), 2), "game: expected the index of one game in a batch of"),
        (lambda: em.plot.trajectory(trajectories()), "game: expected the index of one game in a batch of"),
        (lambda: em.plot.trajectory(trajectories().replace(trajectory=None), 0), "solution: expected one of em.solve"),
        (lambda: em.plot.trajectory(trajectories(steps=(4, 0)), 1), "no profile was found of game"),
        (
            lambda: em.plot.beliefs(em.Game(np.full((1, 4, 1), 0.25), np.ones((2, 1)), np.ones((1, 2, 1)))),
            "game: expected an x_B of two or three values",
        ),
        (lambda: em.plot.beliefs(JUDGE, user=em.SparsemaxUser(5.0)), "user: expected a rational or a quantal user"),
        (lambda: em.plot.beliefs(JUDGE, agent=1), "agent: expected an index below K = 1"),
        (lambda: em.plot.value_against_agents(games().drop(columns="agents")), "rows: expected a column agents"),
        (lambda: em.plot.value_against_agents(games().iloc[:0]), "rows: expected a row at least"),
        (lambda: em.plot.value_against(games(), "games.noise"), "x: expected a column of rows"),
        (lambda: em.plot.market(market_values(), names=["one"]), "names: expected a list of 3 words"),
        (lambda: em.plot.hull_curves(hull_table(), offset="each"), "offset: expected one of none, constant"),
        (lambda: em.plot.save(axes(), "figure.jpeg"), "paths: expected names that end in"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


def test_panels_stack_in_a_column():
    for width, columns in ((FULL, 2), (NARROW, 1)):
        _, parts = em.plot.panels(2, width=width)
        assert parts[0].get_gridspec().ncols == columns
    assert em.plot.panels(12, least=1.6)[1][0].get_gridspec().get_geometry() == (4, 3)
    pyplot.close("all")


@pytest.mark.slow
def test_the_market_of_a_run_is_stacked_in_a_column(tmp_path):
    rows = market_rows().assign(worst=1.0, entering="")
    people = pd.DataFrame({"resample": 0, "agent": HOSTILE, "monopoly": 1.0, "without": 1.0})
    people = people.assign(normalised_monopoly=0.5, normalised_without=0.7)
    facts = {"target": "$t", "prompts": 9, "items": "prompts", "agents": 5}
    found = market.Found(tmp_path, rows, people, facts, {}, True, 0.0)
    for width in (NARROW, FULL):
        check(market.figure(found, Look(width)))
    assert market.draw(found, Look(kinds=(".svg",))) == ["market.svg"]
    assert Path(tmp_path / "market.svg").read_text().count("<svg") == 1
