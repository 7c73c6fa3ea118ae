"""The page in a browser: sorting, filtering, hovering, opening by click and by key, hostile names, narrow screens,
print, accessibility. EMALIGN_NIGHTLY=1 opens 10,000 games and prints how long that takes.
"""

import contextlib
import io
import os
import time

import numpy as np
import pandas as pd
import pytest
from support.browser import chromium, faults, grown, rewritten

import emalign_jax as em
from emalign_jax.cli import main
from emalign_jax.report.page import contents, render

pytestmark = [pytest.mark.slow, pytest.mark.host_only]

HOSTILE = "</script><script>window.bad = 1</script><img src=x onerror='window.bad = 1'>\u2028\"'\x00 & more"
LABELS = em.Labels(agents=("<b>bold</b>", 'quo"te'), actions=("acquit", "convict"), outcomes=("innocent", "guilty"))


def call(*arguments):
    with contextlib.redirect_stdout(io.StringIO()), pytest.raises(SystemExit) as stop:
        main([str(x) for x in arguments])
    assert stop.value.code in (0, 1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A search of drawn games, one of a file with labels and two starts, and a sweep."""
    here = tmp_path_factory.mktemp("runs")
    quick = ("--set", "solver.method=best_responses", "--states", "2", "--actions", "2")
    call("search", "--count", "20", "--agents", "2,3", "--family", "hull,noise", *quick, "--out", here / "search")
    games = em.random_games(0, 2, agents=2, states=2, actions=2).labelled(LABELS)
    em.save_games(here / "games.npz", games)
    call("search", "--games", here / "games.npz", *quick[:2], "--starts", "2", "--out", here / "labelled")
    (here / "grid.toml").write_text(
        'title = "A grid"\n[games]\nfamily = "noise"\nnoise = [1.0, 2.5]\nagents = 2\nstates = 2\nactions = 2\n'
        'count = 2\n[solver]\nmethod = "best_responses"\n'
    )
    call("sweep", here / "grid.toml", "--out", here / "sweep")
    return here


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(env=os.environ | {"TMPDIR": str(tmp_path_factory.mktemp("browser"))}) as started:
        yield started


@pytest.fixture
def opened(browser, tmp_path):
    """opened(run, **options of the browser): its page, ready; nothing may be fetched, and no script may fail."""
    wrong, contexts = [], []

    def open_(run, **options):
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("request", lambda asked: asked.url.startswith(("file:", "data:")) or wrong.append(asked.url))
        file = tmp_path / f"{run.name}.html"
        file.write_text(render.render(contents.read(run)), "utf-8", "backslashreplace")
        page.goto(file.as_uri())
        if options.get("java_script_enabled", True):
            page.wait_for_selector("html.ready")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert wrong == []


def column(page, name):
    """What the table has under a head, on the page that is shown."""
    return page.eval_on_selector_all(f".list td[data-label='{name}']", "cells => cells.map(cell => cell.textContent)")


def visible(locator, wanted=True):
    """Wait until it is, as pages do what they are asked in their own time."""
    locator.wait_for(state="visible" if wanted else "hidden")


def test_sort_and_filter(runs, opened):
    page = opened(runs / "search")
    rows = pd.read_parquet(runs / "search" / "games.parquet")
    head = page.get_by_role("columnheader", name="gain/range")
    for direction, ascending in (("ascending", True), ("descending", False)):
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == direction
        shown = [float(text) for text in column(page, "gain/range")]
        wanted = rows["relative_gain"].sort_values(ascending=ascending).to_numpy()[: len(shown)]
        np.testing.assert_allclose(shown, wanted, rtol=0.06, atol=1e-12)
    page.get_by_label("family", exact=True).select_option("noise")
    page.get_by_label("K", exact=True).select_option("3")
    visible(page.get_by_text("20 of 80 games"))
    assert set(column(page, "family")) == {"noise"}
    assert set(column(page, "K")) == {"3"}
    page.get_by_label("contains", exact=True).fill("17")
    assert column(page, "game") == ["17"]
    page.get_by_role("button", name="Clear").click()
    page.get_by_role("button", name="Last page").click()
    visible(page.get_by_text("page 4 of 4"))
    assert len(column(page, "K")) == 5


def test_filter_by_result(runs, opened, tmp_path):
    def change(rows):
        rows.loc[3, ["result", "ok", "message"]] = "FAILED", False, "A sentence that says why."

    page = opened(rewritten(runs / "search", tmp_path / "run", change, {}))
    page.get_by_label("result", exact=True).select_option("FAILED")
    assert column(page, "game") == ["3"]
    page.get_by_role("button", name="Open hull").click()
    visible(page.get_by_role("dialog").get_by_text("A sentence that says why."))


def test_hover_and_click_a_point(runs, opened):
    page = opened(runs / "search")
    page.get_by_label("contains", exact=True).fill("7")
    page.get_by_label("family", exact=True).select_option("noise")
    page.get_by_label("K", exact=True).select_option("2")  # one point is left
    canvas, tip = page.locator("canvas"), page.locator(".tip")
    canvas.focus()
    page.keyboard.press("ArrowRight")  # which says above the point, and a little to the right, what it is
    where = tip.evaluate("tip => ({ x: tip.offsetLeft - 12, y: tip.offsetTop + tip.offsetHeight + 12 })")
    canvas.blur()
    visible(tip, False)
    canvas.hover(position=where)
    assert "noise, K 2, game 7" in tip.inner_text()
    canvas.click(position=where)
    visible(page.get_by_role("dialog").get_by_role("heading", name="noise, K 2, game 7"))


def test_keys_alone(runs, opened):
    page = opened(runs / "search")
    page.locator(".open").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    visible(dialog.get_by_role("heading", name="hull, K 2, game 1"))
    dialog.get_by_role("button", name="Next").focus()
    page.keyboard.press("Enter")
    visible(dialog.get_by_role("heading", name="hull, K 2, game 2"))
    page.keyboard.press("Escape")
    visible(dialog, False)
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Open hull, K 2, game 1"
    page.locator("canvas").focus()
    page.keyboard.press("ArrowRight")
    said = page.locator(".tip strong").inner_text()
    page.keyboard.press("Enter")
    visible(page.get_by_role("dialog").get_by_role("heading", name=said))


def test_the_detail_of_a_game(runs, opened):
    """Schemes, posteriors, certificate and profile against the files, with the labels of the game."""
    page = opened(runs / "labelled")
    page.locator(".open").nth(3).click()  # the second start of the second game
    dialog = page.get_by_role("dialog")
    visible(dialog)
    tables = {
        text.split("\n")[0]: rows
        for text, rows in dialog.locator("table").evaluate_all(
            "all => all.map(t => [t.caption.textContent, "
            "[...t.tBodies[0].rows].map(row => [...row.cells].map(cell => cell.textContent))])"
        )
    }
    games, schemes = em.load_games(runs / "labelled" / "games.npz"), em.load_schemes(runs / "labelled" / "schemes.npz")
    prior, scheme = games.prior[1].sum(0), schemes[1, 1]
    for agent, name in enumerate(LABELS.agents):
        sent = [[float(x.replace("<", "")) for x in row[1:]] for row in tables[f"{name}: probability of each message"]]
        np.testing.assert_allclose(sent, scheme[agent], atol=1e-3)
        for message, total, *posterior, action in tables[f"{name}: the belief that each message alone leads to"]:
            weights = scheme[agent][:, int(message)] @ prior
            np.testing.assert_allclose(float(total), weights.sum(), atol=1e-3)
            np.testing.assert_allclose([float(x) for x in posterior], weights / weights.sum(), atol=1e-3)
            assert LABELS.actions[np.argmax(games.user_utility[1] @ weights)] in action
    row = pd.read_parquet(runs / "labelled" / "games.parquet").iloc[3]
    gains = tables["Gains from deviating, in units of the agent's utility"]
    assert [line[0] for line in gains] == list(LABELS.agents)
    np.testing.assert_allclose([float(line[1]) for line in gains], row["agent_payoffs"], atol=1e-3)
    exact = em.stability(games[1])
    words = "; ".join(f"{low:.3f}" if low == high else f"{low:.3f} to {high:.3f}" for low, high in exact.intervals())
    assert words in dialog.locator("svg.profile").get_attribute("aria-label")


@pytest.mark.parametrize(("run", "row"), [("search", 47), ("labelled", 3), ("sweep", 3)])
def test_its_lines_compute_the_game_again(run, row, runs, opened):
    page = opened(runs / run)
    if run == "search":
        page.get_by_role("button", name="Next page").click()
        page.locator(f"tr[data-row='{row}']").click()
    else:
        page.locator(".open").nth(row).click()
    said, space = io.StringIO(), {}
    with contextlib.redirect_stdout(said):
        exec(page.get_by_role("dialog").locator("pre").inner_text(), space)
    wanted = pd.read_parquet(runs / run / "games.parquet").iloc[row]
    found = space["rows"].loc[wanted["start"]]
    for name in ("family", "agents", "game", "result", "user_value", "worst_equilibrium", "relative_gain"):
        assert found[name] == wanted[name] or found[name] == pytest.approx(wanted[name], abs=1e-9, nan_ok=True), name
    if run != "sweep":
        at = (wanted["start"], space["saved"]) if run == "labelled" else (0, space["saved"])
        np.testing.assert_array_equal(space["schemes"][at[0], 0], at[1])


def test_hostile_names_stay_text(runs, opened, tmp_path):
    def change(rows):
        rows["family"] = HOSTILE
        rows["message"] = HOSTILE

    run = rewritten(runs / "search", tmp_path / "run", change, {"title": HOSTILE, "command": ["emalign", HOSTILE]})
    page = opened(run)
    page.locator(".open").first.click()
    page.locator("canvas").focus()
    assert page.evaluate("window.bad") is None
    assert page.locator("main img").count() == 1  # the figure
    assert "<img src=x onerror=" in page.title()
    assert column(page, "family")[0].startswith("</script><script>window.bad")
    labelled = opened(runs / "labelled")
    labelled.locator(".open").first.click()
    visible(labelled.get_by_role("dialog").get_by_text("<b>bold</b>", exact=True))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_narrow_and_wide_light_and_dark(width, scheme, runs, opened):
    """No sideways scrolling, nothing that axe calls serious, in the page and in a game's detail."""
    page = opened(runs / "labelled", viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert faults(page) == []
    page.locator(".open").first.click()
    dialog = page.get_by_role("dialog")
    visible(dialog)
    assert dialog.evaluate("element => element.scrollWidth <= element.clientWidth")
    assert faults(page) == []


def test_without_scripts_and_on_paper(runs, opened):
    bare = opened(runs / "search", java_script_enabled=False)
    assert bare.locator("main img").is_visible()
    assert bare.get_by_role("table").count() == 1
    page = opened(runs / "search")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.locator(".list tbody tr").count() == 80
    assert not page.locator(".controls").first.is_visible()


@pytest.mark.nightly
def test_ten_thousand_games(browser, tmp_path):
    """Under 8 MB, and ready in under three seconds."""
    quick = ("--set", "solver.method=best_responses", "--count", "20", "--agents", "5", "--family", "hull,noise")
    call("search", *quick, "--out", tmp_path / "small")
    run = grown(tmp_path / "small", tmp_path / "run", 10_000, np.random.default_rng(0))
    call("report", run)
    file = run / "report.html"
    seconds = []
    for _ in range(3):
        page = browser.new_page()
        began = time.perf_counter()
        page.goto(file.as_uri())
        page.wait_for_selector("html.ready")
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
        page.get_by_role("columnheader", name="user value").get_by_role("button").click()
        sort = time.perf_counter() - began
        began = time.perf_counter()
        page.locator(".open").first.click()
        page.wait_for_selector("dialog[open]")
        detail = time.perf_counter() - began
        page.close()
    size = file.stat().st_size / 1e6
    print(f"\n{size:.2f} MB; ready in {min(seconds):.2f} s, sorted in {sort:.2f} s, first detail in {detail:.2f} s")
    assert size < 8
    assert min(seconds) < 3
