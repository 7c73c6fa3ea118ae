"""docs/specification.md and docs/columns.md, made from the sections and columns of the package."""

from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from emalign_jax.experiments.specification import Section, fields
from emalign_jax.result import columns

TABLES = {
    "search, sweep and study": (columns.CELL, *columns.GAMES),
    "tune": columns.TUNE,
    "trajectories": (columns.CELL, *columns.TRAJECTORIES),
    "market": columns.MARKETS,
    "agents of a market": columns.MARKET_AGENTS,
    "equilibrium bounds": columns.BOUNDS,
}
INTRODUCTIONS = {
    "search, sweep and study": "`games.parquet` of `emalign search`, `sweep` and `study`: a row a cell of the grid, "
    "game and start, and after `cell` a column an axis of the grid, such as `games.agents`; those of a study end with "
    "`users`, the kind of user, and `strength`, that of its departure.",
    "trajectories": "`trajectories.parquet` of `emalign search` and `emalign sweep` with `measure.trajectory`: a row a "
    "profile that a search met, in order, and after `cell` a column an axis of the grid.",
    "tune": "`games.parquet` of `emalign tune`: a row a held-out game.",
    "market": "`markets.parquet` of `emalign market`: a row a resample of the prompts and market.",
    "agents of a market": "`agents.parquet` of `emalign market`: a row a resample of the prompts and agent.",
    "equilibrium bounds": "`em.equilibrium_bounds(...).to_pandas()`: a row a game.",
}

INTRODUCTION = """# Keys of specifications

Made from the sections in `emalign_jax/experiments`; a test compares. A key is written in a TOML file as `key = value`
in its `[section]`, on the command line as `--set section.key=value`, in Python as `"section.key": value`. Parameters of
protocols, users and families of your own are further keys of `[protocol]`, `[user]` and `[games]`, and the knobs of the
built-in families (`noise`, `bias`, `alignment`, `attributes`, `tilt`) of `[games]`. A file also takes `title`, and
`block`, the games that are computed and kept at a time.
"""


def of_specifications(commands: dict[str, type[Section]]) -> str:
    """docs/specification.md, by commands that take the same keys."""
    text = [INTRODUCTION]
    for heading, of in commands.items():
        text += [f"## {heading}", "", "| key | takes | default | what it is |", "|---|---|---|---|"]
        for name, info in fields(of).items():
            default = info.get_default(call_default_factory=True)
            shown = ", ".join(default) if isinstance(default, tuple) else toml_word(default)
            text.append(f"| `{name}` | {_takes(info)} | {shown} | {info.description or ''} |")
        text.append("")
    return "\n".join(text)


def toml_word(value: Any) -> str:
    """A value as TOML has it; "" for None."""
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _takes(info: FieldInfo) -> str:
    """What a key takes, in words."""
    kind: Any = info.annotation
    while get_origin(kind) in (UnionType, Union, Annotated):
        kind = next(x for x in get_args(kind) if x is not type(None))
    if kind == tuple[int, ...]:
        return "integers"
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    least = next((f" >= {rule.ge}" for rule in info.metadata if hasattr(rule, "ge")), "")
    return {int: f"integer{least}", float: "number", bool: "true or false", str: "word"}.get(kind, "words")


def of_columns() -> str:
    """docs/columns.md."""
    text = [
        "# Columns of the result tables",
        "",
        "Made from `emalign_jax/result/columns.py`; a test compares.",
        "",
    ]
    for name, table in TABLES.items():
        text += [
            f"## {name}",
            "",
            INTRODUCTIONS[name],
            "",
            "| column | type | unit | what it is |",
            "|---|---|---|---|",
        ]
        text += [f"| `{c.name}` | {c.kind} | {c.unit} | {c.description} |" for c in table]
        text.append("")
    return "\n".join(text)
