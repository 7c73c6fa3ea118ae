"""Checks of Pooled with a rational user in groups of games, distributed over processes as arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from emalign_jax.exact.checks.base import Deviation, check_for
from emalign_jax.exact.checks.examination import examine
from emalign_jax.games.game import ReducedGame
from emalign_jax.internal.processes import Arrays, share
from emalign_jax.protocols import Pooled
from emalign_jax.users.rational import RationalUser

# Games per group: enough for the work to outweigh the transfer, few enough to distribute.
GROUP = 16


def prepare(
    checks: list[Any], profiles: list[np.ndarray], bracket: float | None, tolerance: float | None,
    progress: Callable[[int], None],
) -> None:  # fmt: skip
    """As `AbstractCheck.prepare`, for games of one size and users of one kind."""
    groups = [slice(at, at + GROUP) for at in range(0, len(checks), GROUP)]
    terms = {"bracket": _number(bracket), "gains": _number(tolerance)}
    asked = [_pack(checks[some], profiles[some]) | terms for some in groups]
    for some, answer in zip(
        groups, share(respond, asked, lambda done: progress(min(done * GROUP, len(checks)))), strict=True
    ):
        _unpack(answer, checks[some], profiles[some])


def respond(arrays: Arrays) -> Arrays:
    """The best responses of one group of games, in any process."""
    bracket, gains = (None if np.isnan(arrays[name]) else float(arrays[name]) for name in ("bracket", "gains"))
    checks = [_check(arrays, k) for k in range(len(arrays["range"]))]
    for check, schemes in zip(checks, arrays["schemes"], strict=True):
        _respond(check, schemes, bracket, gains)
    found = [(k, i, b is not None, d) for k, check in enumerate(checks) for (i, b), d in check.responses.items()]
    return {
        "range": np.array([check.payoff_range for check in checks]),
        "which": np.array([(k, i, bracketed) for k, i, bracketed, _ in found], int).reshape(-1, 3),
        "value": np.array([d.value for *_, d in found]),
        "upper": np.array([d.upper for *_, d in found]),
        "status": np.array([d.status for *_, d in found]),
        "ends": np.cumsum([d.scheme.shape[1] for *_, d in found]),
        "schemes": np.concatenate([d.scheme for *_, d in found], 1),
        "bracket": arrays["bracket"],
    }


def _respond(check: Any, schemes, bracket: float | None, tolerance: float | None) -> None:
    """Have `check` find the best responses."""
    if tolerance is not None:
        found = examine(check, schemes)
        if found.worst > tolerance or found.bracketed:
            return
    check.deviations(schemes, range(len(schemes)), bracket)


def _pack(checks: list[Any], profiles: list[np.ndarray]) -> Arrays:
    arrays = {name: np.stack([getattr(check.game, name) for check in checks]) for name in ReducedGame._fields}
    arrays["schemes"] = np.stack(profiles)
    unknown = np.full(len(profiles[0]), np.nan)
    arrays["range"] = np.stack([unknown if check._range is None else check._range for check in checks])
    user = checks[0].user
    return arrays | {"ties": np.array(user.ties), "tolerance": np.array(user.tolerance)}


def _check(arrays: Arrays, k: int) -> Any:
    user = RationalUser(str(arrays["ties"]), float(arrays["tolerance"]))
    check = check_for(Pooled(), user)(ReducedGame(*(arrays[name][k] for name in ReducedGame._fields)), Pooled(), user)
    known = arrays["range"][k]
    check._range = None if np.isnan(known).any() else known
    return check


def _unpack(answer: Arrays, checks: list[Any], profiles: list[np.ndarray]) -> None:
    for check, schemes, known in zip(checks, profiles, answer["range"], strict=True):
        check.start_on(schemes)
        check._range = known
    parts = np.split(answer["schemes"], answer["ends"][:-1], axis=1)
    rows = zip(answer["which"], answer["value"], answer["upper"], answer["status"], parts, strict=True)
    for (k, i, bracketed), value, upper, status, scheme in rows:
        bracket = float(answer["bracket"]) if bracketed else None
        checks[k].responses[int(i), bracket] = Deviation(float(value), float(upper), scheme, str(status))


def _number(value: float | None) -> np.ndarray:
    return np.array(np.nan if value is None else value)
