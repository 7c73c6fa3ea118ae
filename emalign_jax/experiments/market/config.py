"""The specification of a market: the table, who is who in it, and what is computed."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from emalign_jax.experiments import specification as spec
from emalign_jax.experiments import toml
from emalign_jax.experiments.specification import Flat, Number, Section, whole
from emalign_jax.games.from_table import OWN_MEAN
from emalign_jax.internal.arguments import shown

RESAMPLES, MOST_SCORES = 10, 100_000  # by default, for tables of at most so many
SIZES = (2, 5, 10, 20, 50)  # numbers of agents, as far as there are


def _several(value: Any) -> Any:
    """What a list of TOML, or one value, is in a specification, which is strict."""
    return tuple(value) if isinstance(value, list) else value if isinstance(value, tuple | None) else (value,)


def _distinct(values: tuple) -> tuple:
    if not values or len(set(values)) < len(values):
        raise ValueError(f"expected distinct values, at least one, got {list(values)!r:.80}")
    return values


def _two_or_more(values: tuple[int, ...]) -> tuple[int, ...]:
    if min(values) < 2:
        raise ValueError(f"expected numbers >= 2, as agents compete, got {min(values)}")
    return tuple(sorted(values))


def _threshold(value: float | str) -> float | str:
    if isinstance(value, str) and value != OWN_MEAN:
        raise ValueError(f"expected a number or {OWN_MEAN}, got {shown(value)}")
    return value


Names = Annotated[tuple[str, ...], BeforeValidator(_several), AfterValidator(_distinct)]
Sizes = Annotated[tuple[int, ...], BeforeValidator(_several), AfterValidator(_distinct), AfterValidator(_two_or_more)]
Threshold = Annotated[Number | str, AfterValidator(_threshold)]


class Table(Section):
    """The table, and who is who in it."""

    file: str | None = Field(default=None, description="the table (.csv, .tsv, .parquet, .npz)")
    digest: str | None = Field(default=None, description="digest of that file, for the manifest")
    answers: bool = Field(default=False, description="a row a prompt and answer, a column a scorer")
    accept: Threshold | None = Field(
        default=None,
        description="a row an item, a column a person: take it (worth the rating less this threshold) or leave it "
        "(worth 0); a number or own-mean",
    )
    target: str | None = Field(default=None, description="the user: a column of the table")
    agents: Names | None = Field(default=None, description="the agents: columns; by default all others")
    id: str | None = Field(
        default=None, description="the column of prompts (by default prompt) or items (by default rows are numbered)"
    )
    answer: str = Field(default="answer", description="the column that names answers")
    topic: str | None = Field(default=None, description="a column with what the user knows of the prompt, x_A")
    order: Literal["random", "given"] = Field(
        default="random", description="positions of the answers, which are the user's actions"
    )
    encoding: str = Field(default="utf-8", description="of a text file")


class Market(Section):
    """What is computed."""

    n: Sizes | None = Field(
        default=None, description="numbers of random agents; by default 2, 5, 10, 20, 50 as far as there are"
    )
    subsets: int = whole(5, "random subsets of each size, and splits of the prompts")
    bootstrap: int | None = whole(
        None, "resamples of the prompts, for intervals; by default 10, and 0 for more than 100,000 scores", 0, 100_000
    )
    without: bool = Field(default=True, description="the worst equilibrium without each agent")
    entering: bool = Field(
        default=True, description="where agents were named: the worst equilibrium with each other one"
    )
    target_value: Number | None = Field(
        default=None, description="the user's value to which transfers to agents are to lift the guarantee"
    )
    weights: Literal["cone", "simplex"] = Field(
        default="cone", description="of the hull: any weights >= 0, as in theorem 1, or of sum 1"
    )
    test_share: float = Field(default=0.5, gt=0, lt=1, description="share of the prompts held out of hull fits")


class MarketSpecification(Section):
    """A market from a table."""

    seed: int = whole(0, "seed of positions, subsets, splits and resamples", 0, spec.MOST_SEED)
    table: Table = Table()
    market: Market = Market()


@dataclasses.dataclass(frozen=True)
class Config:
    """made: the specification; path: what messages call where it is from."""

    path: str
    title: str
    made: MarketSpecification

    def plain(self) -> dict[str, Any]:
        """For the manifest."""
        values = {name: list(x) if isinstance(x, tuple) else x for name, x in spec.flat(self.made).items()}
        return {"title": self.title} | {name: toml.plain_value(x) for name, x in values.items()}

    @property
    def text(self) -> str:
        """What the numbers depend on, in JSON: not where the table lies."""
        values = {name: x for name, x in self.plain().items() if name not in ("title", "table.file")}
        return json.dumps(values, sort_keys=True)


def read(config: str | None, given: Flat, changes: Flat | None = None) -> Config:
    """The specification of a TOML file, or with None of `given` alone, with other values of some keys.

    Raises `ValueError`, or `FileNotFoundError`, in one line that names the file, the key and the rule.
    """
    known, path = spec.fields(MarketSpecification), config or ""
    if config is not None:
        if not os.path.lexists(config):
            raise FileNotFoundError(f"{config}: no such file")
        given = toml.document(toml.text_of(config), config, known) | given
    where = f"{path}: " if path else ""
    found = spec.given_keys(((where, given), ("", changes or {})), ("title",), known)
    title = found.pop("title", "")
    if found.pop("table.digest", None) is not None:
        raise ValueError(f"{where}table.digest: is computed; leave it out")
    made = spec.make(MarketSpecification, found)
    if made.table.file is None:
        raise ValueError(f"{where}table.file: expected the name of a table")
    if made.table.accept is not None and "table.answer" in found:
        raise ValueError(f"{where}table.answer: belongs to table.answers; leave it out with table.accept")
    if made.table.answers == (made.table.accept is not None):
        both = "not both" if made.table.answers else "neither was given"
        raise ValueError(
            f"{where}table.answers, table.accept: expected one of them (a row a prompt and answer, or ratings of items "
            f"and a threshold), {both}"
        )
    return Config(path, title, made)
