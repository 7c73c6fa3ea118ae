"""docs/model.md: whatever cites one of its sections finds it, whatever it names in the code exists."""

import contextlib
import io
import re
from pathlib import Path

import pytest

import emalign_jax as em

pytestmark = pytest.mark.host_only

ROOT = Path(__file__).parents[2]
MODEL = (ROOT / "docs" / "model.md").read_text()
SECTIONS = set(re.findall(r"^#{2,3} (\d+(?:\.\d+)?)[. ]", MODEL, re.M))
NUMBERS = r"[Ss]ections? (\d+(?:\.\d+)?(?:(?:,| and|, and) \d+(?:\.\d+)?)*)"


def cited(pattern: str, text: str) -> list[str]:
    """Section numbers, wherever the lines of a comment or a notebook break."""
    text = re.sub(r'(\\n",)?\s*\n\s*[#"]?\s*', " ", text)
    return [number for found in re.findall(pattern, text) for number in re.findall(r"\d+(?:\.\d+)?", found)]


def files():
    for folder, kinds in {"emalign_jax": "py toml", "tests": "py", "benchmarks": "py md", "notebooks": "ipynb"}.items():
        for kind in kinds.split():
            yield from sorted((ROOT / folder).rglob(f"*.{kind}"))
    yield from sorted(ROOT.glob("*.md"))


def test_cited_sections_exist():
    inside = cited(NUMBERS, MODEL)
    outside = {path: cited(NUMBERS + r" of `*docs/model\.md", path.read_text()) for path in files()}
    assert len(inside) > 20
    assert sum(map(len, outside.values())) > 20
    assert set(inside) <= SECTIONS
    assert [(path.name, n) for path, found in outside.items() for n in found if n not in SECTIONS] == []


def test_nothing_cites_another_model():
    """Such as one that is not in the repository."""
    for path in files():
        assert cited(NUMBERS + r" of the (?:project's )?model", path.read_text()) == [], path


def exists(name: str) -> bool:
    """em.Name, or a field of one, which an instance has and its class may not."""
    value = em
    for part in name.split(".")[1:]:
        if not hasattr(value, part):
            return any(part in vars(base).get("__annotations__", {}) for base in getattr(value, "__mro__", ()))
        value = getattr(value, part)
    return True


def test_names_exist():
    table = MODEL[MODEL.index("## Appendix B") :]
    assert len(re.findall(r"`em\.[\w.]+`", table)) > 40
    names = {f"em.{name}" for name in em.__all__} | set(re.findall(r"`(em\.[\w.]+)`", MODEL))
    assert [name for name in sorted(names) if not exists(name)] == []
    assert not exists("em.Game.prios")


@pytest.mark.slow
def test_code_runs():
    (block,) = re.findall(r"```python\n(.*?)```", MODEL, re.S)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(block, {})
    assert said.getvalue() == "float64\n"


DOCS = [path for path in sorted((ROOT / "docs").rglob("*.md")) if not {"_build", "gallery"} & set(path.parts)]
QUICK = ("market", "certify_policy")


def blocks(path: Path) -> list[tuple[str, str]]:
    """The Python of a page and what it prints, block by block, without files, which test_contributing.py runs."""
    text = path.read_text("utf-8")
    files = len(re.findall(r"```python\n# \w+\.py\n", text))
    found = re.findall(r"```python\n(?!# \w+\.py\n)((?:(?!```).)*)```\n\n```text\n(.*?)```", text, re.S)
    assert len(found) + files == text.count("```python"), f"{path.name}: a block of Python has no output after it"
    return found


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=() if path.stem in QUICK else pytest.mark.slow)
        for path in DOCS
        if path.stem != "model" and blocks(path)
    ],
)
def test_pages_print_what_they_say(path, empty_directory):
    names = {}
    for code, printed in blocks(path):
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(code, names)
        assert said.getvalue() == printed


def test_the_columns_of_tables_are_documented():
    from support import reference_pages

    assert (ROOT / "docs" / "columns.md").read_text("utf-8") == reference_pages.of_columns()
    for table in reference_pages.TABLES.values():
        names = [column.name for column in table]
        assert len(set(names)) == len(names)


def test_the_page_of_keys_is_that_of_the_specifications():
    from support import reference_pages

    from emalign_jax.experiments import specification
    from emalign_jax.experiments.market.config import MarketSpecification
    from emalign_jax.experiments.tune import config

    pages = {
        "search, sweep, study, certify": specification.Specification,
        "tune": config.specification(),
        "market": MarketSpecification,
    }
    assert (ROOT / "docs" / "specification.md").read_text() == reference_pages.of_specifications(pages)
