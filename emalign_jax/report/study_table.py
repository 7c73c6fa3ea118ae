"""The printed table of a study: one line a kind of user and strength."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from emalign_jax.experiments.grid.study import ALONE, STRENGTH, USERS, Study
from emalign_jax.experiments.grid.table import number, ruled

HEADS = {"competition": "competition", "best": "best single", "average": "average", "aligned": "aligned"}
DIFFERENCES = {f"over_{arm}": f"less {HEADS[arm]}" for arm in ALONE}
NOTE = (
    "Values: 0 is what a rational user has without messages, 1 what it has if x_B is revealed. Brackets: 95 % t "
    "intervals of the mean difference over the same games."
)


def heads(study: Study) -> list[str]:
    """Of `cells`."""
    axes = [name.split(".")[-1] for name in study.shared if name not in ("games.family", "games.agents")]
    return ["family", "K", *axes, "users", "departure", "games", *HEADS.values(), *DIFFERENCES.values(), "helps in",
            "certified"]  # fmt: skip


def cells(study: Study, lines: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Each line as text."""
    shared = [name for name in study.shared if name not in ("games.family", "games.agents")]
    return [
        [line["family"], str(line["K"]), *(_shown(line[name]) for name in shared), line[USERS]]
        + [departure(study, line), str(line["games"]), *(number(line[arm]) for arm in HEADS)]
        + [difference(line, name) for name in DIFFERENCES]
        + [f"{line['helps']:.0%}" if math.isfinite(line["helps"]) else "-", f"{line['certified']:.0%}"]
        for line in lines
    ]


def departure(study: Study, line: dict[str, Any]) -> str:
    """ "precision 5"; "-" for a kind of user without strengths."""
    key = study.departure(line[USERS])
    return "-" if key is None else f"{key.split('.')[-1]} {line[STRENGTH]:g}"


def difference(line: dict[str, Any], name: str) -> str:
    """ "+0.07 [-0.03, 0.16]"."""
    mean, low, high = (line[name + end] for end in ("", "_low", "_high"))
    if not math.isfinite(mean):
        return "-"
    mean, low, high = (0.0 if abs(x) < 5e-4 else x for x in (mean, low, high))
    return f"{mean:+.3f} [{low:.3f}, {high:.3f}]" if math.isfinite(low) else f"{mean:+.3f}"


def render(study: Study, lines: Sequence[dict[str, Any]]) -> str:
    """The lines as text that lines up."""
    return ruled([heads(study), *cells(study, lines)])


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
