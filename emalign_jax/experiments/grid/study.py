"""A study: the same games with users of several kinds, from the rational one to users far from it.

A specification has beside the sections of a sweep a section `users.NAME` for each kind of user, with keys that hold for
it alone. One of them may be a list of numbers: the strength of the departure, beginning with none. A new kind of user
is one such section.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from emalign_jax.experiments import plan as plans
from emalign_jax.experiments import toml
from emalign_jax.experiments.grid import threshold
from emalign_jax.experiments.plan import Cell, Plan
from emalign_jax.experiments.specification import Flat, fields
from emalign_jax.internal.arguments import shortened, shown

FOLDER = "studies"
USERS, STRENGTH = "users", "strength"  # the axes that a study has beside those of its sections, and their columns
DEFAULTS: Flat = {"measure.aligned": True, "measure.coverage": False, "measure.eps": False}
# What competition is compared with: columns of the table of games.
ALONE = {"best": "best_monopolist", "average": "average_monopolist", "aligned": "aligned"}
HELPS = 1e-6  # differences up to this share of what information is worth are rounding


@dataclasses.dataclass(frozen=True)
class Study(Plan):
    """The grid of what all users have in common, and `kinds`, a grid for each kind of user."""

    kinds: dict[str, Plan] = dataclasses.field(default_factory=dict)

    @property
    def shared(self) -> tuple[str, ...]:
        """The axes of the games and all else that kinds of users do not say."""
        return super().axes

    @property
    def axes(self):
        return (*self.shared, USERS, STRENGTH)

    def kind(self, name):
        return {USERS: "text", STRENGTH: "number"}.get(name) or super().kind(name)

    def departure(self, users: str) -> str | None:
        """The key that is the axis of a kind of user."""
        return next((name for name in self.kinds[users].axes if name not in self.shared), None)

    @functools.cached_property
    def _cells(self) -> list[Cell]:
        found = []
        for users, own in self.kinds.items():
            key = self.departure(users)
            for cell in own.cells():
                strength = np.nan if key is None else float(cell.values[key])
                found.append(cell._replace(values=cell.values | {USERS: users, STRENGTH: strength}))
        return found

    def plain(self):
        kinds = {
            users: {
                name: [toml.plain_value(x) for x in own.grid[name]]
                for name in own.grid
                if own.grid[name] != self.grid.get(name)
            }
            for users, own in self.kinds.items()
        }
        return super().plain() | {f"{USERS}.{users}": own for users, own in kinds.items()}


def document(config: str) -> Flat:
    """As `plan.document`, of a study; a kind of user is {"users.NAME": {"section.key": value}}."""
    found = toml.document(toml.text_of(config, FOLDER), config, (*fields(), f"{USERS}.NAME"))
    for name, own in found.items():
        if name.startswith(f"{USERS}.") and isinstance(own, dict):
            parts = {section: keys if isinstance(keys, dict) else {"": keys} for section, keys in own.items()}
            flat = {f"{section}.{key}".rstrip("."): x for section, keys in parts.items() for key, x in keys.items()}
            found[name] = flat
    return found


def plan(given: Flat, path: str, changes: Flat | None = None, **more: Any) -> Study:
    """As `plan.plan`, with a key "users.NAME" for each kind of user, whose value is {"section.key": value}, or further
    keys "users.NAME.section.key".

    Raises `ValueError` that names the file, the kind of user, the key and the rule.
    """
    where = f"{path}: " if path else ""
    common, kinds = _divided(DEFAULTS | given, where)
    changed, others = _divided(changes or {}, "")
    kinds |= {name: kinds.get(name, {}) | own for name, own in others.items()}
    if not kinds:
        raise ValueError(f"{where}{USERS}: expected a section [{USERS}.NAME] for each kind of user")
    for name in ("measure.verify", "measure.aligned"):
        if (common | changed).get(name, True) is not True:
            raise ValueError(f"{where}{name}: a study compares with certified single agents; leave it out")
    whole = plans.plan(common, path, changed, **more)
    shared = common | changed | {"title": whole.title}
    return _study(whole, {
        name: plans.plan(shared | own, f"{where}{USERS}.{shortened(name)}", **more) for name, own in kinds.items()
    })  # fmt: skip


def from_manifest(plain: dict[str, Any], path: str) -> Study:
    """As `plan.from_manifest`."""
    common, kinds = _divided(plain, f"{path}: ")
    own = {name: plans.from_manifest(common | own, path) for name, own in kinds.items()}
    return _study(plans.from_manifest(common, path), own)


def _divided(given: Flat, where: str) -> tuple[Flat, dict[str, Flat]]:
    """The keys that all users have in common, and those of each kind."""
    common, kinds = {}, {}
    for name, value in given.items():
        if not name.startswith(f"{USERS}."):
            common[name] = value
            continue
        users, _, key = name.removeprefix(f"{USERS}.").partition(".")
        if not (key or isinstance(value, dict)):
            raise ValueError(f"{where}{shortened(name)}: expected a section with keys, got {shown(value)}")
        kinds[users] = kinds.get(users, {}) | ({key: value} if key else value)
    return common, kinds


def _study(common: Plan, kinds: dict[str, Plan]) -> Study:
    shared = {field.name: getattr(common, field.name) for field in dataclasses.fields(Plan)}
    made = Study(**shared, kinds=kinds)
    for users, own in kinds.items():
        where = f"{own.path}: " if own.path else f"{USERS}.{users}: "
        axes = [name for name in own.axes if name not in made.shared]
        if len(axes) > 1:
            raise ValueError(f"{where}{', '.join(axes)}: expected one list, the strength of the departure")
        if axes and own.kind(axes[0]) not in ("whole", "number"):
            raise ValueError(f"{where}{axes[0]}: expected numbers, the strength of the departure")
        of_games = [name for name in own.given if name.partition(".")[0] in ("seed", "games")]
        if others := [name for name in of_games if own.grid[name] != common.grid.get(name)]:
            raise ValueError(f"{where}{others[0]}: the games are the same for all users; leave it out")
    return made


# what is found


class Paired(NamedTuple):
    """The mean of differences in the same games, and the ends of Student's t interval over games."""

    mean: float
    low: float
    high: float


def paired(differences: Float[np.ndarray, "N"]) -> Paired:
    """Of the differences that are known; NaN where there are none, and the interval of one game alone."""
    from scipy.special import stdtrit

    known = differences[np.isfinite(differences)]
    n = len(known)
    if n < 2:
        return Paired(float(known.mean()) if n else np.nan, np.nan, np.nan)
    mean = float(known.mean())
    half = float(stdtrit(n - 1, (1 + threshold.CONFIDENCE) / 2) * known.std(ddof=1) / np.sqrt(n))
    return Paired(mean, mean - half, mean + half)


@np.errstate(all="ignore")  # infinite or huge numbers of a file are shown as they are
def by_game(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """A row a cell and game, the mean over its starts: the values of competition and of each of ALONE in utility, as
    shares of what x_B is worth to a rational user ("competition", "best", ...), and whether all of it is certified."""
    none = rows["rational_no_information"]
    worth = (rows["rational_full_information"] - none).where(lambda x: x > 0)
    values = {"competition": rows["user_value"]} | {arm: rows[column] for arm, column in ALONE.items()}
    found = rows[[*study.axes]].copy()
    found["family"], found["K"], found["game"] = rows["family"].astype(str), rows["agents"], rows["game"]
    for arm, value in values.items():
        found[f"{arm}_utility"], found[arm] = value, (value - none) / worth
    found["certified"] = rows["certified"] & rows["single_agents_certified"]
    keys = ["family", "K", *study.axes, "game"]
    means: Any = found.groupby(keys, sort=False, dropna=False).mean()
    return means.reset_index()


def unproved(games: pd.DataFrame) -> int:
    """In how many games of `by_game` not all values are certified."""
    return int(np.sum(games["certified"].to_numpy(float) < 1))


@np.errstate(all="ignore")
def summary(study: Study, games: pd.DataFrame) -> list[dict[str, Any]]:
    """A line a cell: mean values as shares, and competition less each of ALONE, as shares and in utility.

    games: of `by_game`
    """
    lines = []
    keys = ["family", "K", *study.axes]
    point: Any
    for point, group in games.groupby(keys, sort=False, dropna=False):
        line = dict(zip(keys, point, strict=True))
        line |= {"games": len(group), "certified": 1 - unproved(group) / len(group)}
        line |= {arm: group[arm].mean() for arm in ("competition", *ALONE)}
        for arm, unit in itertools.product(ALONE, ("", "_utility")):
            found = paired((group[f"competition{unit}"] - group[f"{arm}{unit}"]).to_numpy(float))
            name = f"over_{arm}{unit}"
            line |= {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
        gained = (group["competition"] - group["best"]).dropna()
        lines.append(line | {"helps": (gained > HELPS).mean()})
    return lines


class Threshold(NamedTuple):
    """Where along a departure competition stops helping: the mean difference from the best single agent falls to 0 for
    good, with the interval of a bootstrap over games. place, low, high: as positions among the strengths, from 0;
    infinite beyond the last, -inf before the first."""

    point: dict[str, Any]
    users: str
    departure: str
    place: float
    low: float
    high: float


def thresholds(study: Study, games: pd.DataFrame) -> list[Threshold]:
    """One a kind of user with an axis, and combination of the other axes."""
    found = []
    keys = ["family", "K", *study.shared, USERS]
    point: Any
    for point, group in games.groupby(keys, sort=False):
        users = str(point[-1])
        key = study.departure(users)
        if key is None:
            continue
        strengths = [float(x) for x in study.kinds[users].grid[key]]
        gained = group.assign(gained=group["competition"] - group["best"])
        table = gained.pivot_table(index="game", columns=STRENGTH, values="gained", dropna=False)
        differences = table.reindex(columns=strengths).to_numpy(float)
        differences = differences[np.isfinite(differences).all(1)]
        if len(differences):
            at = np.arange(len(strengths), dtype=float)
            places = threshold.crossing(at, HELPS, _mean, differences)
            found.append(Threshold(dict(zip(keys[:-1], point[:-1], strict=True)), users, key, *places))
    return found


def _mean(differences: Float[np.ndarray, "N X"]) -> Float[np.ndarray, "X"]:
    return differences.mean(0)


def entry(study: Study, found: Threshold) -> dict[str, Any]:
    """A threshold as JSON has it: the strengths in place of positions; "beyond all" where competition still helps at
    the last of them, "before all" where at none."""
    strengths = study.kinds[found.users].grid[found.departure]
    ends = {"strength": found.place, "from": found.low, "to": found.high}
    return found.point | {USERS: found.users, "departure": found.departure} | {
        name: strength_at(strengths, place) if np.isfinite(place) else f"{'beyond' if place > 0 else 'before'} all"
        for name, place in ends.items()
    }  # fmt: skip


def strength_at(strengths: tuple, place: float) -> float:
    """The strength at a position among them; between an infinite one and another their reciprocals are interpolated."""
    values = np.array(strengths, float)
    inverse = np.isinf(values).any()
    between = np.interp(place, np.arange(len(values)), 1 / values if inverse else values)
    return float(1 / between if inverse and between else np.inf if inverse else between)


def words(study: Study, found: Threshold) -> str:
    """ "4.2 [6, 3]"; "not up to 2" where competition still helps at the last strength, "never" where at none."""
    strengths = study.kinds[found.users].grid[found.departure]

    def bounded(place: float) -> str:
        if np.isfinite(place):
            return f"{strength_at(strengths, place):.3g}"
        return f"not up to {strengths[-1]:g}" if place > 0 else f"not even at {strengths[0]:g}"

    value, *ends = (bounded(x) for x in (found.place, found.low, found.high))
    return value if set(ends) == {value} else f"{value} [{', '.join(ends)}]"


def name_of(found: Threshold) -> str:
    """ "shared_bias K=3, lazy, compare"."""
    point = {name: x for name, x in found.point.items() if name not in ("family", "K", "games.family", "games.agents")}
    more = "".join(f" {name.split('.')[-1]}={x}" for name, x in point.items())
    key = found.departure.split(".")[-1]
    return f"{found.point['family']} K={found.point['K']}{more}, {found.users}, {key}"


EXPLANATION = (
    "Where competition stops helping: where the mean of competition less the best single agent falls to 0 for good, "
    f"from the textbook on, linearly between strengths ({100 * threshold.CONFIDENCE:g} % interval of a bootstrap over "
    "games)"
)
