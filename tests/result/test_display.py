"""What prints: one short line of what matters, and in notebooks a table and a figure."""

import jax
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from result.test_batched import certificate, solution
from result.test_tables import LABELS

import emalign_jax as em
from emalign_jax.result import display

MOST = 400


def test_a_solution_says_what_matters():
    found = solution(1200)
    value = display.number(np.nanmean(found.normalised_value))
    expected = f"Solution(1,200 games, K=2: 400 certified, 400 unrefuted, 400 above tolerance; value {value})"
    assert repr(found) == str(found) == expected
    one = found[1]
    assert repr(one).startswith("Solution(one game, K=2: unrefuted; user ")
    assert display.number(float(one.user)) in repr(one)
    assert repr(solution(2, 3, starts=2)).startswith("Solution(2 starts of 3 games, K=2: ")
    assert repr(solution(1)).startswith("Solution(1 game, K=2: 1 certified")
    assert repr(solution(0)) == "Solution(0 games, K=2)"
    assert repr(certificate(2, 3)).startswith("Certificate(2 x 3 games, K=2: ")


@pytest.mark.parametrize(("value", "text"), [
    (0.934, ".934"), (-0.5, "-.5"), (1.0, "1"), (1234.0, "1,234"), (1.2345e-5, "1.23e-05"), (12.34, "12.3"),
    (float("inf"), "inf"), (float("nan"), "nan"), (0.0, "0"),
])  # fmt: skip
def test_numbers_are_short(value, text):
    assert display.number(value) == text


def test_what_is_no_result_yet_prints_too():
    found = solution(5)
    for changed in (jax.tree.map(lambda _: None, found), jax.eval_shape(lambda: jax.tree.map(lambda x: x + 0, found))):
        assert repr(changed).startswith("Solution(")
        assert len(repr(changed)) <= MOST
        assert "\n" not in repr(changed)
        assert changed._repr_html_().startswith("<p>")


MODULES = {
    "QuantalUser(precision=20)": em.QuantalUser(20),
    "QuantalUser(precision=array[3])": em.QuantalUser(np.ones(3)),
    "RationalUser()": em.RationalUser(),
    "RationalUser(ties='lowest')": em.RationalUser("lowest"),
    "Conservative(user=RationalUser(), weight=0.5)": em.Conservative(em.RationalUser(), 0.5),
    "FixedReplies(rule='truthful', acting=QuantalUser(precision=5))": em.FixedReplies("truthful", em.QuantalUser(5.0)),
    "Pooled()": em.Pooled(),
    "Selection()": em.Selection(),
    "Selection(temperature=0.1, then=Conversation(rounds=2))": em.Selection(0.1, em.Conversation(2)),
    "Comparison(compared=2)": em.Comparison(2),
    "Conversation(rounds=2, replies=3)": em.Conversation(2, 3),
    "GradientPlay()": em.GradientPlay(),
    "GradientPlay(tolerance=0.001, steps=5)": em.GradientPlay(steps=5, tolerance=1e-3),
    "BestResponseDynamics()": em.BestResponseDynamics(),
    "SmoothPlay(agents_precision=5)": em.SmoothPlay(5.0),
    "Implicit()": em.Implicit(),
    "Objective(over_games='cvar', level=0.2)": em.Objective("cvar", 0.2),
    "Several(mechanisms=(Reporting(), UserPrecision()))": em.mechanisms.Several(
        (em.mechanisms.Reporting(), em.mechanisms.UserPrecision())
    ),
}


@pytest.mark.parametrize("text", MODULES)
def test_modules_print_as_one_writes_them(text):
    assert repr(MODULES[text]) == text


@pytest.mark.parametrize("text", [text for text in MODULES if "array" not in text])
def test_and_what_they_print_makes_them_again(text):
    names = {name: getattr(em, name) for name in em.__all__} | vars(em.mechanisms)
    assert repr(eval(text, names)) == text


def test_traced_modules_print():
    told = []
    jax.jit(lambda user: told.append(repr(user)))(em.QuantalUser(20.0))
    assert told == ["QuantalUser(precision=traced[])"]


def test_games_say_their_sizes():
    games = em.Game(np.full((20, 1, 4, 4), 1 / 16), np.zeros((5, 4)), np.zeros((20, 3, 5, 4)))
    assert repr(games) == "Game(20 games, K=3, XA=1, XB=4, Y=4, A=5)"
    assert repr(games[0]) == "Game(K=3, XA=1, XB=4, Y=4, A=5)"
    assert repr(jax.tree.map(lambda _: None, games)) == "Game(...)"


def test_notebooks_show_a_table_whose_text_is_escaped():
    class Hostile(em.Solution):
        def _columns(self, long):
            return super()._columns(long) | {"result": np.full(self.batch_shape, "<script>alert(1)</script>")}

    found = solution(30, labels=LABELS)
    page = Hostile(**vars(found))._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<tr") == display.ROWS + 1
    assert "8 of 30 rows" in page or "30 rows" in page
    assert "30 games" in page


def test_one_figure_is_shown_and_never_hides_the_table(monkeypatch):
    class Own(em.Certificate):
        pass

    found = Own(**vars(certificate(3)))
    assert "<img" not in found._repr_html_()
    monkeypatch.setattr(display, "_figures", {})
    display.register_figure(Own, lambda _: Figure(figsize=(1, 1)))
    assert '<img alt="Own"' in found._repr_html_()
    assert "data:image/svg+xml;base64," in found._repr_html_()

    def broken(_):
        raise RuntimeError("<i>no")

    for draw, said in ((broken, "RuntimeError: &lt;i&gt;no"), (lambda _: None, "")):
        display.register_figure(Own, draw)
        page = found._repr_html_()
        assert "<table" in page
        assert "<img" not in page
        assert said in page


@pytest.mark.slow
def test_the_registered_figures_are_drawn():
    game = em.catalog.two_prosecutors()
    searched = em.solve(game, em.Selection(), em.RationalUser(), record=True)
    before = pyplot.get_fignums()
    for found in (em.stability(game), searched):
        page = found._repr_html_()
        assert "<img" in page
        assert "not drawn" not in page
        assert pyplot.get_fignums() == before, "a notebook would show the figure a second time"
