"""The site: links lead somewhere, every public name has its place, and it builds without a warning."""

import re
import subprocess
import sys
import urllib.error
import urllib.request
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from support import browser

import emalign_jax as em

pytestmark = pytest.mark.host_only

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SITE = "https://emalign.github.io/emalign_jax/"
CODE = "https://github.com/emalign/emalign_jax/"
PAGES = [
    *(path for path in sorted(DOCS.rglob("*.md")) if not {"_build", "gallery"} & set(path.parts)),
    *sorted(ROOT.glob("*.md")),
    ROOT / "benchmarks" / "README.md",
]


def text_of(path: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```(?!\{).*?^```", "", path.read_text("utf-8"), flags=re.S | re.M)


def whole(path: Path) -> str:
    """A page with the file that it includes, if it does."""
    text = text_of(path)
    return text + "".join(text_of(path.parent / name) for name in re.findall(r"\{include\} (\S+)", text))


def anchors(path: Path) -> set[str]:
    """What GitHub and MyST call the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", whole(path), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def links(path: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", text_of(path)))


def place(link: str, page: Path) -> Path:
    """The file that a link on this page means: beside it, on the site, or in the repository."""
    if link.startswith(SITE):
        return DOCS / re.sub(r"\.html$", ".md", link.removeprefix(SITE) or "index.html")
    if link.startswith(CODE):
        return ROOT / re.sub(r"^(blob|raw)/main/", "", link.removeprefix(CODE))
    found = (page.parent / unquote(link)).resolve()
    if found.parent == DOCS / "gallery":  # copies of the notebooks, and their figures
        return ROOT / "notebooks" / f"{found.stem}.ipynb"
    return found


def broken(page: Path) -> list[str]:
    wrong = []
    for link in links(page):
        target, anchor = urldefrag(link)
        if target.startswith(("http", "mailto")) and not target.startswith((SITE, CODE)):
            continue
        path = place(target, page) if target else page
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    assert broken(page) == []


def test_links_that_lead_nowhere_are_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"# One two\n[a](#one-two) [b](#three) [c](none.md) [d]({SITE}none.html) [e]({SITE}tour.html)\n")
    assert broken(page) == ["#three", "none.md", f"{SITE}none.html"]


def test_every_public_name_stands_on_one_page():
    blocks = re.findall(r"```\{public\}\n(.*?)```", "".join(p.read_text() for p in (DOCS / "api").glob("*.md")), re.S)
    named = [name for block in blocks for name in block.split()]
    assert sorted(named) == sorted(em.__all__)


def test_every_command_is_in_the_table():
    from emalign_jax.cli.app import app

    text = (DOCS / "commands.md").read_text()
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert set(re.findall(r"^\| `emalign (\w+)", text, re.M)) == commands


class Page(HTMLParser):
    """Where a page of HTML leads, and where it may be led to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links, self.ids = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        of = dict(attrs)
        self.ids |= {of["id"]} if of.get("id") else set()
        self.links += [of[key] for key in ("href", "src") if of.get(key)]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built with warnings as errors."""
    for needed in ("pydata_sphinx_theme", "myst_nb"):
        pytest.importorskip(needed, reason="needs the extra docs")
    place = tmp_path_factory.mktemp("site")
    options = ("-q", "-n", "-W", "--keep-going", "-b", "html", "-d", place / "trees")
    command = [sys.executable, "-m", "sphinx", *map(str, (*options, DOCS, place / "html"))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return place / "html"


@pytest.mark.nightly
def test_the_site_builds_without_a_warning_and_its_links_lead_somewhere(site):
    pages = {path: Page(path.read_text("utf-8")) for path in site.rglob("*.html") if "_static" not in path.parts}
    wrong = []
    for path, page in pages.items():
        for link in page.links:
            target, anchor = urldefrag(link)
            if re.match(r"\w+:", link):
                continue
            found = (path.parent / unquote(target.split("?")[0])).resolve() if target else path
            if not found.exists() or (anchor and found in pages and anchor not in pages[found].ids):
                wrong.append((path.name, link))
    assert len(pages) > 50
    assert wrong == []


@pytest.mark.nightly
@pytest.mark.parametrize("width", [1280, 400])
def test_pages_are_accessible_and_fit_a_phone(site, width):
    """By axe-core: no serious or critical fault; and no scrolling sideways."""
    wrong = []
    with browser.chromium() as window:
        page = window.new_page(viewport={"width": width, "height": 900})
        for name in (
            "index",
            "tour",
            "concepts",
            "guides/own_game",
            "api/certificates",
            "commands",
            "gallery/quickstart",
        ):
            page.goto((site / f"{name}.html").as_uri())
            wrong += [(name, *fault) for fault in browser.faults(page)]
            wrong += [(name, "wide")] * page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
    assert wrong == []


@pytest.mark.nightly
def test_external_links_answer():
    """Where there is a network: a site that refuses programs (401, 403, 429) is there."""
    found = {urldefrag(link)[0] for page in PAGES for link in links(page) if link.startswith("http")}
    elsewhere = sorted(link for link in found if not link.startswith((SITE, CODE)))
    print("\n".join(elsewhere))
    dead = []
    for link in elsewhere:
        try:
            request = urllib.request.Request(link, headers={"User-Agent": "Mozilla/5.0"})
            urllib.request.urlopen(request, timeout=20).close()
        except urllib.error.HTTPError as error:
            dead += [] if error.code in (401, 403, 429) else [(link, error.code)]
        except OSError as error:
            pytest.skip(f"no network: {error}")
    assert dead == []
