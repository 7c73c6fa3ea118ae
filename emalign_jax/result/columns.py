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
    Column("average_monopolist", "number", "mean user value with each agent alone", "utility"),
    Column("aligned", "number", "user value with one agent alone whose utility is the user's", "utility"),
    Column("single_agents_certified", "flag", "each agent alone, and the aligned one, is proved to play a best "
           "response within the tolerance; false if that was not asked for"),
    Column("rational_no_information", "number", "V_none of a rational user of the same game", "utility"),
    Column("rational_full_information", "number", "V_full of a rational user of the same game", "utility"),
    *WORST,
    Column("best_equilibrium", "number", "the user's value in the best exact equilibrium", "utility"),
    Column("eps", "number", "sup-norm distance of the user's utility from the agents' hull", "utility"),
    Column("coverage_slack", "number", "no equilibrium falls short of V_full by more", "utility"),
    Column("weighted_gain", "number", "sum of the coverage weights times `gain_upper`", "utility"),
    Column("normalised_best_monopolist", "number", "normalised `best_monopolist`", "share", "best monopolist"),
    Column("normalised_average_monopolist", "number", "normalised `average_monopolist`", "share", "mean monopolist"),
    Column("normalised_best_equilibrium", "number", "normalised `best_equilibrium`", "share", "best equilibrium"),
    Column("normalised_guarantee", "number", "normalised `guarantee`", "share", "guarantee (sharp)"),
    Column("normalised_theorem", "number", "normalised `theorem`", "share", "guarantee (2 eps)"),
    Column("normalised_eps", "number", "`eps` / (V_full - V_none)", "share", "eps"),
    Column("normalised_coverage_slack", "number", "`coverage_slack` / (V_full - V_none)", "share", "coverage slack"),
    Column("normalised_weighted_gain", "number", "`weighted_gain` / (V_full - V_none)", "share"),
)  # fmt: skip
BOUNDS = (
    Column("game", "whole", "number of the game"),
    Column("no_information", "number", "V_none", "utility"),
    Column("full_information", "number", "V_full", "utility"),
    Column("at_least", "number", "no pure equilibrium is worth less (a bound)", "utility"),
    Column("worst_found", "number", "the value of a certified equilibrium near that bound", "utility"),
    Column("best_equilibrium", "number", "the user's value in the best exact equilibrium", "utility"),
    Column("complete", "flag", "the search for the bound ended; otherwise more work gives a closer one"),
    Column("lps", "whole", "number of linear programs"),
    Column("result", "text", "CERTIFIED where the bound holds: a name of `em.Result`"),
    Column("message", "text", "`result` as a sentence"),
    Column("ok", "flag", "the bound holds"),
)  # fmt: skip
OBSERVED = (
    Column("agents", "whole", "number of agents K", json="K"),
    Column("game", "text", "index of the game in the batch", json="game"),
    Column("user_value", "number", "the user's value V with the mean schemes", "utility", json="user"),
    Column("user_interval", "numbers", "its credible limits", "utility", json="user_interval"),
    Column("no_information", "number", "V_none", "utility", json="no_information"),
    Column("full_information", "number", "V_full", "utility", json="full_information"),
    Column("loss", "number", "V_full - V: what the user loses", "utility", json="loss"),
    Column("loss_interval", "numbers", "its credible limits", "utility", json="loss_interval"),
    Column("guarantee", "number", "the least user value of any distribution that pays every agent as much", "utility",
           json="guarantee"),
    Column("equilibrium", "number", "the user's value in the equilibrium that is found from the mean schemes",
           "utility", json="equilibrium"),
    Column("equilibrium_result", "text", "what is proved of it: a name of `em.Result`", json="equilibrium_result"),
    Column("calls", "numbers", "messages that were counted of each agent", json="calls"),
    Column("unseen_states", "numbers", "values of x_B in which nothing was counted of each agent",
           json="unseen_states"),
    Column("agent_payoffs", "numbers", "each agent's payoff", "utility", json="agents"),
    Column("best_response", "numbers", "the value of each agent's best response: no less is possible", "utility",
           json="best_response"),
    Column("best_response_upper", "numbers", "and no more", "utility", json="best_response_upper"),
    Column("gain_low", "numbers", "the deviation gain, lower credible limit", "utility", json="gain_low"),
    Column("gain_high", "numbers", "upper credible limit; infinite (JSON: null) if none is proved", "utility",
           json="gain_high"),
    Column("relative_gain", "numbers", "the gain from the mean schemes as a share of the payoff range", "payoff range",
           json="relative_gain"),
    Column("relative_gain_low", "numbers", "its lower credible limit", "payoff range", json="relative_gain_low"),
    Column("relative_gain_high", "numbers", "its upper credible limit", "payoff range", json="relative_gain_high"),
    Column("user_after", "numbers", "the user's value if this agent alone turns to its best response", "utility",
           json="user_after"),
    Column("result", "text", "what is proved of the mean schemes: a name of `em.Result`", json="code"),
    Column("message", "text", "`result` as a sentence", json="result"),
)  # fmt: skip
TRAJECTORIES = (
    *SIZES[:4],
    Column("step", "whole", "number of the profile in its search"),
    Column("move", "text", "how it came about: a name of `em.Move`; the last is the profile that is returned"),
    Column("user_value", "number", "the user's expected utility V", "utility"),
    Column("normalised_value", "number", "(V - V_none) / (V_full - V_none)", "share"),
    Column("holder", "whole", "the agent that the user picks; -1 where all are heard"),
    Column("agent_payoffs", "numbers", "each agent's payoff", "utility"),
    Column("relative_gain", "numbers", "each agent's deviation gain (a lower bound); NaN where it was not checked",
           "payoff range"),
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

SCALE = "0\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}1"
MARKETS = (
    Column("resample", "whole", "0: the table itself; 1, 2, ...: resamples of its prompts"),
    Column("kind", "text", "`all` agents, a random `subset` of them, or all and one that is `entering`"),
    Column("agents", "whole", "number of agents n", label="n"),
    Column("draw", "whole", "number of the random subset"),
    Column("entering", "text", "the agent that enters", label="agent"),
    Column("none", "number", "V_none: the user's value without any agent", "utility", "V_none"),
    Column("full", "number", "V_full: the user's value of all that the agents know", "utility", "V_full"),
    Column("best_monopolist", "number", "the user's value with the best single agent", "utility"),
    Column("worst", "number", "the user's value in the worst exact equilibrium", "utility", "worst equilibrium"),
    Column("best", "number", "the user's value in the best exact equilibrium", "utility", "best equilibrium"),
    Column("guarantee", "number", "no equilibrium is worth less", "utility", "guarantee"),
    Column("slack", "number", "no equilibrium falls short of V_full by more, by weights of agents alone", "utility",
           "coverage slack"),
    Column("hull_error", "number", "RMS error of weighted agents on prompts held out; of all agents the mean over "
           "splits", "utility", "hull error"),
    Column("no_agent_error", "number", "the same without any agent", "utility", "no agent"),
    Column("eps", "number", "sup-norm distance of the user's utility from the hull of all agents", "utility", "eps"),
    Column("transfers", "number", "least budget of transfers that lift the guarantee to market.target_value"),
    Column("worthless", "flag", "information is worth nothing: V_full is V_none"),
    *(
        Column(f"normalised_{name}", "number", f"(V - V_none) / (V_full - V_none) of `{name}`", "share",
               f"{label}, {SCALE}")
        for name, label in (("best_monopolist", "best monopolist"), ("worst", "worst equilibrium"),
                            ("best", "best equilibrium"), ("guarantee", "guarantee"))
    ),
    Column("seconds", "number", "seconds of work", "s"),
)  # fmt: skip
MARKET_AGENTS = (
    Column("resample", "whole", "0: the table itself; 1, 2, ...: resamples of its prompts"),
    Column("agent", "text", "name of the agent", label="agent"),
    Column("monopoly", "number", "the user's value with this agent alone", "utility", "alone"),
    Column("without", "number", "the user's value in the worst equilibrium without this agent; of the table itself",
           "utility", "worst without it"),
    *(
        Column(f"normalised_{name}", "number", f"(V - V_none) / (V_full - V_none) of `{name}`", "share",
               f"{label}, {SCALE}")
        for name, label in (("monopoly", "alone"), ("without", "worst without it"))
    ),
)  # fmt: skip


def kinds(columns: Iterable[Column], names: Iterable[str] | None = None) -> dict[str, str]:
    """{name: kind} of some columns, by default of all, as `parquet.read` takes it."""
    known = {column.name: column.kind for column in columns}
    return known if names is None else {name: known[name] for name in names}


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


def json_entries(
    schema: Sequence[Column], rows: Iterable[dict[str, Any]], names: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """The entry of each row in the JSON document; names: of the agents, of which games of K agents have the first K."""
    keys = {column.name: column.json for column in schema if column.json}
    for row in rows:
        entry = {key: row[name] for name, key in keys.items()}
        yield entry | ({"agent_names": list(names[: len(row["agent_payoffs"])])} if names else {})
