"""The columns of all result tables: one schema, which parquet files, JSON, printed tables, the report and
docs/columns.md read. A new column is one entry here and its numbers where the table is made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

ARROW = {
    "text": pa.string(),
    "whole": pa.int64(),
    "number": pa.float64(),
    "flag": pa.bool_(),
    "numbers": pa.list_(pa.float64()),
}


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table.

    kind:  "text", "whole", "number", "flag", or "numbers" (a list with one number an agent)
    unit:  "utility", "share" (of V_full - V_none, or of all rows), "payoff range", "s" or ""
    label: the head in printed tables and in the report; "" in none
    json:  the key in the JSON document of `search` and `certify`; "" if it is not there
    """

    name: str
    kind: str
    description: str
    unit: str = ""
    label: str = ""
    json: str = ""


SIZES = (
    Column("family", "text", "family of random games; `file` for games that were read", label="family", json="family"),
    Column("agents", "whole", "number of agents K", label="K"),
    Column("game", "whole", "number of the game in its family and number of agents", label="game", json="game"),
    Column("start", "whole", "number of the start", label="start", json="start"),
    Column("states", "whole", "number of outcomes Y"),
    Column("actions", "whole", "number of actions A"),
    Column("user_features", "whole", "size of x_A, which the user sees"),
    Column("agent_features", "whole", "size of x_B, which the agents see"),
    Column("messages", "whole", "messages M an agent has"),
)
CERTIFICATE = (
    Column("user_value", "number", "the user's expected utility V", "utility", "user", "user"),
    Column("no_information", "number", "V_none: the user's value with no message", "utility", "V_none",
           "no_information"),
    Column("full_information", "number", "V_full: the user's value if x_B is revealed", "utility", "V_full",
           "full_information"),
    Column("normalised_value", "number", "(V - V_none) / (V_full - V_none)", "share", "user value",
           "normalised_value"),
    Column("agent_payoffs", "numbers", "each agent's payoff", "utility", json="agents"),
    Column("gain_lower", "numbers", "a deviation of this agent gains at least this", "utility", json="gain_lower"),
    Column("gain_upper", "numbers", "no deviation of this agent gains more; infinite (JSON: null) if none is excluded",
           "utility", json="gain_upper"),
    Column("payoff_range", "numbers", "best minus worst attainable payoff of each agent; without an exact check "
           "those that were seen", "utility"),
    Column("relative_gain", "number", "largest `gain_lower` as a share of the payoff range", "payoff range",
           "gain/range", "relative_gain"),
    Column("closed", "flag", "upper and lower bounds of all gains agree within the tolerance", json="closed"),
    Column("guarantee", "number", "the least user value of any distribution that pays every agent as much (sharp form)",
           "utility", "guarantee", "guarantee"),
    Column("theorem", "number", "the lower bound of the 2 eps form", "utility"),
    Column("result", "text", "what is proved: a name of `em.Result`", json="code"),
    Column("message", "text", "`result` as a sentence", label="why", json="result"),
    Column("ok", "flag", "no deviation is known to gain more than the tolerance", label="within tolerance"),
    Column("certified", "flag", "every deviation gain is proved to be within the tolerance", label="certified"),
    Column("fallback", "flag", "an answer of the batched LP solver was not proved, and HiGHS solved the LP again"),
)  # fmt: skip
FOUND = (
    Column("found_by", "text", "how the profile was found: a name of `em.FoundBy`", json="found_by"),
    Column("monopoly_value", "number", "mean normalised value with each agent alone", "share", "monopoly"),
    Column("seconds", "number", "seconds of work, shared evenly among the games of a block", "s", "seconds"),
)
WORST = (
    Column("worst_equilibrium", "number", "the user's value in the worst exact equilibrium", "utility",
           json="worst_equilibrium"),
    Column("normalised_worst_equilibrium", "number", "the same as (V - V_none) / (V_full - V_none)", "share",
           "worst equilibrium", "normalised_worst_equilibrium"),
)  # fmt: skip
CELL = Column("cell", "text", "key of the cell of the grid: a digest of its specification")
GAMES = (
    *SIZES, *CERTIFICATE, *FOUND,
    Column("best_monopolist", "number", "user value with the one agent alone who is best for the user", "utility"),
    *WORST,
    Column("best_equilibrium", "number", "the user's value in the best exact equilibrium", "utility"),
    Column("eps", "number", "sup-norm distance of the user's utility from the agents' hull", "utility"),
    Column("coverage_slack", "number", "no equilibrium falls short of V_full by more", "utility"),
    Column("weighted_gain", "number", "sum of the coverage weights times `gain_upper`", "utility"),
    Column("normalised_best_monopolist", "number", "normalised `best_monopolist`", "share", "best monopolist"),
    Column("normalised_best_equilibrium", "number", "normalised `best_equilibrium`", "share", "best equilibrium"),
    Column("normalised_guarantee", "number", "normalised `guarantee`", "share", "guarantee (sharp)"),
    Column("normalised_theorem", "number", "normalised `theorem`", "share", "guarantee (2 eps)"),
    Column("normalised_eps", "number", "`eps` / (V_full - V_none)", "share", "eps"),
    Column("normalised_coverage_slack", "number", "`coverage_slack` / (V_full - V_none)", "share", "coverage slack"),
    Column("normalised_weighted_gain", "number", "`weighted_gain` / (V_full - V_none)", "share"),
)  # fmt: skip
TUNE = (
    Column("game", "whole", "number of the game"),
    *(
        Column(f"{name}_{when}", kind, f"{words} {when} tuning", unit)
        for when in ("before", "after")
        for name, kind, words, unit in (
            ("user", "number", "the user's value", "utility"),
            ("cost", "number", "what the mechanism costs", "utility"),
            ("gain", "number", "largest `gain_upper` as a share of the payoff range", "payoff range"),
            ("certified", "flag", "whether that gain is within the tolerance", ""),
            ("result", "text", "what is proved of the equilibrium: a name of `em.Result`", ""),
            ("no_information", "number", "V_none", "utility"),
            ("full_information", "number", "V_full", "utility"),
        )
    ),
)


def kinds(columns: Iterable[Column], names: Iterable[str]) -> dict[str, str]:
    """{name: kind} of some columns, as `parquet.read` takes it."""
    known = {column.name: column.kind for column in columns}
    return {name: known[name] for name in names}


def labels(columns: Iterable[Column], names: Iterable[str]) -> dict[str, str]:
    """{name: label} of some columns."""
    known = {column.name: column.label for column in columns}
    return {name: known[name] for name in names}


def table(columns: Sequence[Column], values: dict) -> pd.DataFrame:
    """A table of these columns, in their order. Raises `ValueError` where values and columns do not agree."""
    names = [column.name for column in columns]
    wrong = set(names) ^ set(values)
    if wrong:
        raise ValueError(f"columns: the schema and the numbers differ in {', '.join(sorted(wrong))}")
    return pd.DataFrame({name: values[name] for name in names})


def arrow(columns: Iterable[Column], rows: pd.DataFrame) -> pa.Table:
    """The rows with the types of the schema, whatever they hold; further columns keep their own types."""
    known = {column.name: ARROW[column.kind] for column in columns}
    own = pa.Schema.from_pandas(rows, preserve_index=False)
    schema = pa.schema([pa.field(field.name, known.get(field.name, field.type)) for field in own])
    return pa.Table.from_pandas(rows, schema, preserve_index=False)


def json_entries(schema: Sequence[Column], rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The entry of each row in the JSON document."""
    keys = {column.name: column.json for column in schema if column.json}
    return ({key: row[name] for name, key in keys.items()} for row in rows)
