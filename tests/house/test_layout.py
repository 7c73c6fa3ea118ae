"""Layout: which folder may import which, how large files are, and names that modules keep to themselves."""

import ast
import importlib
import inspect
import pkgutil
import sys
from pathlib import Path

import pytest

import emalign_jax
from emalign_jax.games.families.base import AbstractFamily
from emalign_jax.mechanisms.base import AbstractMechanism
from emalign_jax.play.solver import AbstractSolver
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.users.base import AbstractUser

pytestmark = pytest.mark.host_only

PACKAGE = Path(emalign_jax.__file__).parent
# a folder imports only what stands before it; the command line also the public names, as users do
ORDER = [
    "internal", "lp", "result", "games", "users", "protocols", "play", "exact", "equilibrium", "mechanisms", "tuning",
    "experiments", "report", "cli", "__main__",
]  # fmt: skip
MOST_LINES = 450


def imported(path: Path) -> set[str]:
    """Folders of the package that a file imports, "" for the package itself."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
            if node.module == "emalign_jax":
                names = [f"emalign_jax.{name.name}" for name in node.names]
        elif isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        else:
            continue
        parts = [name.split(".") for name in names if name.split(".")[0] == "emalign_jax"]
        found |= {part[1] if len(part) > 1 and part[1] in ORDER else "" for part in parts}
    return found


def against_the_direction(folder: str, used: set[str]) -> set[str]:
    allowed = {*ORDER[: ORDER.index(folder) + 1], *([""] if folder == "cli" else [])}
    return used - allowed


@pytest.mark.slow
def test_a_folder_imports_only_what_stands_before_it():
    wrong = {}
    for path in PACKAGE.rglob("*.py"):
        inside = path.relative_to(PACKAGE)
        if str(inside) in ("__init__.py", "_public.py"):  # they know all public names
            continue
        if bad := against_the_direction(inside.with_suffix("").parts[0], imported(path)):
            wrong[str(inside)] = bad
    assert not wrong


def test_an_arrow_against_the_direction_is_seen(tmp_path):
    (tmp_path / "bad.py").write_text("def f():\n    from emalign_jax.report import page\n")
    assert against_the_direction("exact", imported(tmp_path / "bad.py")) == {"report"}
    (tmp_path / "bad.py").write_text("from emalign_jax import solve\n")
    assert against_the_direction("play", imported(tmp_path / "bad.py")) == {""}


def test_no_file_is_long():
    lines = {
        str(path.relative_to(PACKAGE)): len(path.read_text("utf-8").splitlines()) for path in PACKAGE.rglob("*.py")
    }
    assert not {name: count for name, count in lines.items() if count > MOST_LINES}


def test_the_root_holds_folders():
    loose = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert len(loose) <= 2, loose


def test_no_function_stands_before_a_module():
    """`import emalign_jax.x.y as z` yields the module of that name."""
    for module in pkgutil.walk_packages(emalign_jax.__path__, "emalign_jax."):
        if not module.name.endswith(("__main__", "_public")):
            importlib.import_module(module.name)
    for name in [name for name in sys.modules if name.startswith("emalign_jax.")]:
        parent, _, leaf = name.rpartition(".")
        assert getattr(sys.modules[parent], leaf) is sys.modules[name], name


def extended(base: type) -> set[type]:
    """All subclasses of a class that are in the package."""
    found = {cls for sub in base.__subclasses__() for cls in (sub, *extended(sub))}
    return {cls for cls in found if cls.__module__.startswith("emalign_jax.")}


def asked_classes(tree: ast.AST) -> set[str]:
    """The names of classes that code compares the class of an object with: isinstance, issubclass and type(...) is."""
    asked = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
            asked.append(node.args[1])
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            types = [x for x in sides if isinstance(x, ast.Call) and getattr(x.func, "id", "") == "type"]
            asked += [x for x in sides if x not in types] if types else []
    named = [x for expression in asked for x in ast.walk(expression)]
    return {getattr(x, "id", getattr(x, "attr", "")) for x in named}


def test_what_can_be_extended_is_asked_and_not_told_apart_by_its_class():
    for module in pkgutil.walk_packages(emalign_jax.__path__, "emalign_jax."):
        if not module.name.endswith(("__main__", "_public")):
            importlib.import_module(module.name)
    bases = AbstractUser, AbstractProtocol, AbstractSolver, AbstractMechanism, AbstractFamily
    concrete = {cls for base in bases for cls in extended(base) if not cls.__name__.startswith("Abstract")}
    assert len(concrete) > 20
    wrong = {}
    for path in PACKAGE.rglob("*.py"):
        own = {cls.__name__ for cls in concrete if Path(inspect.getfile(cls)) == path}
        names = {cls.__name__ for cls in concrete} - own
        if bad := asked_classes(ast.parse(path.read_text("utf-8"))) & names:
            wrong[str(path.relative_to(PACKAGE))] = bad
    assert not wrong


def test_a_question_of_class_is_seen():
    for code in ("isinstance(x, Pooled | Selection)", "type(x) is not Pooled", "type(x) in (em.Pooled, int)"):
        assert "Pooled" in asked_classes(ast.parse(code)), code
    assert not asked_classes(ast.parse("x.kind == (Pooled,)"))
