"""The explorer's page in a browser: its numbers are the package's, its controls do what they say."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from support import browser

import emalign_jax as em
from emalign_jax.equilibrium.monopolists import monopoly
from emalign_jax.exact.obedience.program import ObedienceLP
from emalign_jax.games.families import FAMILIES
from emalign_jax.games.families.base import Draws
from emalign_jax.report.explorer import build, solver

pytestmark = pytest.mark.host_only

CLOSE = 1e-7
HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def highs():
    given = os.environ.get("EMALIGN_HIGHS")
    try:
        return solver.load(Path(given) if given else None)
    except ValueError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def chromium():
    with browser.chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def address(highs, tmp_path_factory):
    """The page with a game of a file whose agent has a hostile name."""
    labels = em.Labels(agents=(HOSTILE, "other"))
    game = em.catalog.prosecutor_against_defender(0.37).labelled(labels)
    path = tmp_path_factory.mktemp("page") / "explorer.html"
    path.write_text(build.render(highs, game, HOSTILE), "utf-8")
    return path.as_uri()


@pytest.fixture
def visit(chromium, address):
    """visit("#market=judge", width=400) -> the page, computed; nothing may fail in it or leave it."""
    opened, wrong = [], []

    def go(link="#market=judge", **look):
        tab = chromium.new_page(viewport={"width": look.pop("width", 1280), "height": 900}, **look)
        opened.append(tab)
        for event in ("pageerror", "console"):
            tab.on(event, lambda said: wrong.append(str(getattr(said, "text", said))))
        tab.on("request", lambda asked: wrong.append(asked.url) if not asked.url.startswith(address) else None)
        tab.goto(address + link)
        tab.wait_for_selector("#results:not([hidden])")
        return tab

    yield go
    for tab in opened:
        tab.close()
    assert wrong == []


def settled(tab):
    """Two pictures later, so that what a slider changed is computed and drawn."""
    tab.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def slide(tab, name, value):
    tab.evaluate(
        "([name, value]) => { const input = document.getElementById(name); input.value = value;"
        " input.dispatchEvent(new Event('input')); }",
        [name, value],
    )
    settled(tab)


def drawn(rng, family):
    """A game of a family, K 1 to 5 and A, XB, Y 2 to 4, in which information is worth something and agents are far from
    what the user wants, so that equilibria differ."""
    while True:
        K, (A, XB, Y) = int(rng.integers(1, 6)), map(int, rng.integers(2, 5, size=3))
        kind = FAMILIES[family]()
        far = {name: 3.0 for name in ("bias", "noise") if hasattr(kind, name)}
        kind, draws = dataclasses.replace(kind, **far), Draws(rng.uniform(size=(1, 1000)))
        user = kind.user_utility(draws, A, Y)
        user = rng.normal(size=(1, A, Y)) if user is None else user
        prior = rng.dirichlet(np.ones(XB * Y)).reshape(1, XB, Y) * (0.1 + np.eye(XB, Y))
        shared = 3 * rng.integers(2) * rng.normal(size=(A, Y))  # a bias of all agents, in half of the games
        game = em.Game(prior / prior.sum(), user[0], kind.agent_utilities(draws, user, K)[0] + shared)
        worth = np.asarray(em.reduce_game(game, np).user)
        if worth.max(-1).sum() - worth.sum(-2).max() > 0.02 * np.ptp(user):
            return game


def in_page(tab, game, precision=np.inf):
    arrays = {"prior": game.prior, "user": game.user_utility, "agents": game.agent_utilities}
    return tab.evaluate(
        "([game, precision]) => { const {told, lines, exact} = explorer.analyse(game, precision);"
        " return {told, exact, closures: lines && lines.parties.map(party => party.value)}; }",
        [{name: np.asarray(array).tolist() for name, array in arrays.items()}, precision],
    )


def compare(tab, game, said):
    """Every number of the page for a rational user with the package's; what the page found, and the monopolists."""
    page, every = in_page(tab, game), em.stability(game)
    alone = monopoly(game, em.Selection(), em.RationalUser())
    exact, told = page["exact"], page["told"]
    ours = [exact["worst"], exact["best"], told["none"]["user"], told["full"]["user"]]
    theirs = [every.worst, every.best, every.no_information, every.full_information]
    np.testing.assert_allclose(ours, theirs, atol=CLOSE, err_msg=said)
    np.testing.assert_allclose(exact["intervals"], every.intervals(), atol=CLOSE, err_msg=said)
    np.testing.assert_allclose([one["agent"] for one in exact["monopoly"]], alone.agents, atol=CLOSE, err_msg=said)
    assert all(np.array([one["user"] for one in exact["monopoly"]]) >= alone.user - CLOSE), said
    reduced = em.reduce_game(game, np)
    lp = ObedienceLP(reduced)
    for v in every.no_information + np.linspace(0.01, 0.99, 5) * (every.full_information - every.no_information):
        most = [lp.price(payoff, v).value for payoff in reduced.agents]
        curves = [np.interp(v, curve["v"], curve["value"]) for curve in exact["curves"]]
        np.testing.assert_allclose(curves, most, atol=CLOSE, err_msg=said)
    if game.agent_features == 2:  # two routes to the same number, by beliefs and by LP
        closures = [every.full_information, *alone.agents]
        np.testing.assert_allclose(page["closures"], closures, atol=CLOSE, err_msg=said)


@pytest.mark.slow
@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.nightly)])
def test_numbers_are_those_of_the_package(visit, count):
    tab, rng = visit(), np.random.default_rng(count)
    families = sorted(name for name, kind in FAMILIES.items() if kind.__module__.startswith("emalign_jax"))
    lines = 0
    for n in range(count):
        game, said = drawn(rng, families[n % len(families)]), f"game {n}, {families[n % len(families)]}"
        compare(tab, game, said)
        if game.agent_features == 2:
            lines += 1
            quantal = monopoly(game, em.Selection(), em.QuantalUser(20.0))
            smooth = in_page(tab, game, 20.0)["closures"][1:]
            np.testing.assert_allclose(smooth, quantal.agents, atol=1e-6, err_msg=said)
    assert lines > count / 10


@pytest.mark.slow
def test_named_games(visit):
    """Those of the page, and one whose agents are aligned, so that what they share grows with the user's value."""
    tab = visit()
    for name in (*build.PRESETS, "few_messages"):
        compare(tab, getattr(em.catalog, name)(), name)


@pytest.mark.slow
def test_more_types_and_certain_states(visit):
    """XA = 2, and an x_B that cannot happen."""
    rng, tab = np.random.default_rng(5), visit()
    prior = rng.dirichlet(np.ones(16)).reshape(2, 4, 2)
    prior[:, 2] = 0
    game = em.Game(prior / prior.sum(), rng.normal(size=(3, 2)), rng.normal(size=(3, 3, 2)))
    exact, every = in_page(tab, game)["exact"], em.stability(game)
    np.testing.assert_allclose([exact["worst"], exact["best"]], [every.worst, every.best], atol=CLOSE)
    same = em.Game(game.prior, np.ones((3, 2)), game.agent_utilities)  # information is worth nothing
    exact = in_page(tab, same)["exact"]
    assert (exact["worst"], exact["best"]) == (1, 1)


@pytest.mark.slow
def test_sliders_link_and_python_agree(visit):
    tab = visit("#market=two_prosecutors")
    assert "0.7 in the worst equilibrium" in tab.inner_text("#sentence")
    slide(tab, "agents", 3)
    slide(tab, "bias-2", 0)
    assert "In every equilibrium the user gets 1" in tab.inner_text("#sentence")
    slide(tab, "belief-1", 0.45)
    names = {}
    exec(tab.text_content("#python").rpartition("print")[0], names)  # the last line prints
    assert names["game"].agents == 3
    np.testing.assert_allclose(names["game"].prior[0], np.diag([0.55, 0.45]))
    np.testing.assert_array_equal(names["game"].agent_utilities[2], names["game"].user_utility)
    assert float(names["every"].worst) == pytest.approx(1)
    again = visit(tab.evaluate("location.hash"))
    assert again.text_content("#python") == tab.text_content("#python")
    tab.click("#reset")
    settled(tab)
    assert "0.7 in the worst" in tab.inner_text("#sentence")


@pytest.mark.slow
def test_a_quantal_user_is_told_what_is_not_exact(visit):
    tab = visit("#market=judge&precision=20")
    assert tab.is_visible("[data-user=quantal]")
    assert not tab.is_visible("#frontier")
    assert "equilibri" not in tab.inner_text("#numbers") + tab.inner_text("#values")
    names = {}
    exec(tab.text_content("#python"), names)
    alone = monopoly(em.catalog.judge(), em.Selection(), em.QuantalUser(20.0))
    np.testing.assert_allclose(float(names["found"].agents[0]), alone.agents[0], atol=1e-4)
    shown = tab.inner_text("#numbers table >> nth=1").split()
    np.testing.assert_allclose([float(x) for x in shown[-2:]], [alone.agents[0], alone.user[0]], atol=1e-6)


@pytest.mark.slow
def test_links_that_make_no_sense_are_ignored(visit):
    for link in ("#market=no&bias=x&belief=2&precision=-1", "#market=judge&bias=1,1,1,1,1,1,1&belief=0,1", "#%"):
        tab = visit(link)
        assert tab.input_value("#market") in ("file", "judge")
        assert tab.locator("#sliders input").count() in (4, 5)


@pytest.mark.slow
def test_names_stay_text_and_nothing_leaves_the_page(visit):
    tab = visit("")
    assert tab.input_value("#market") == "file"
    assert HOSTILE in tab.text_content("#numbers")
    assert tab.locator("img").count() == 0
    policy = tab.get_attribute("meta[http-equiv=Content-Security-Policy]", "content")
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy


@pytest.mark.slow
@pytest.mark.parametrize("link", ["#market=pharma_market&bias=1,1,0.5,2,0", "#market=informants&precision=9", ""])
def test_it_fits_a_phone(visit, link):
    tab = visit(link, width=400)
    assert tab.evaluate("document.documentElement.scrollWidth") == 400


@pytest.mark.slow
def test_the_first_figures_fill_the_page(visit):
    tab = visit(width=1280)
    assert float(tab.get_attribute("#values svg", "width")) > 600


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("precision", ["", "&precision=9"])
def test_it_is_accessible(visit, scheme, precision):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    tab = visit(f"#market=informants&bias=1,1,0.5,2,0{precision}", color_scheme=scheme)
    tab.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    found = axe.Axe().run(tab).response["violations"]
    assert [(rule["id"], rule["impact"], rule["nodes"][0]["html"]) for rule in found] == []
    figures = tab.locator("svg[role=img]")
    assert figures.count() > 2
    assert all(any(c.isdigit() for c in figures.nth(k).get_attribute("aria-label")) for k in range(figures.count()))


@pytest.mark.slow
def test_the_keyboard_is_enough(visit):
    tab = visit("#market=two_prosecutors")
    tab.focus("#agents")
    tab.keyboard.press("ArrowRight")
    settled(tab)
    assert tab.evaluate("document.activeElement.id") == "agents"  # although the sliders were made anew
    assert tab.locator("#sliders input").count() == 6
    tab.focus("#copy-python")
    tab.keyboard.press("Enter")
    tab.wait_for_function("document.getElementById('copied').textContent !== ''")


@pytest.mark.slow
def test_the_script_is_one_module_of_these_files(highs):
    script = build._script(highs.loader)
    assert "\nimport " not in script
    assert "\nexport " not in script
    for name in build.MODULES:
        assert (Path(build.__file__).parent / name).read_text().splitlines()[-2] in script


@pytest.mark.slow
def test_presets_are_of_the_catalogue(highs):
    page = build.render(highs)
    held = json.loads(page.partition('id="markets">')[2].partition("</script>")[0])
    assert [market["key"] for market in held] == list(build.PRESETS)
    np.testing.assert_array_equal(held[1]["prior"], em.catalog.judge().prior)
    assert "Permission is hereby granted" in page
    assert len(page) < 2.5e6
