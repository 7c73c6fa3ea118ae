"""What weights and an offset leave of a table, and what a dual vector proves that all weights must leave.

The arithmetic of `alignment`: tables [..., A, Y], offsets c(y) [..., Y], the sup norm or the Frobenius norm.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

ROUNDING = 1e-14  # of a table's largest entry: what centring leaves of a table that is all offset
REACH = 10.0  # cone: how much larger than those found are the weights that the bound speaks of


class Rule(NamedTuple):
    """What is fitted: the words of `align`."""

    weights: str
    offset: str
    norm: str

    @property
    def simplex(self) -> bool:
        return self.weights == "simplex"


_WORDS = {"weights": ("simplex", "cone"), "offset": ("none", "constant", "per_state"), "norm": ("sup", "l2")}


def rule_of(weights: str, offset: str, norm: str) -> Rule:
    rule = Rule(weights, offset, norm)
    for name, word in rule._asdict().items():
        if word not in _WORDS[name]:
            allowed = ", ".join(f'"{w}"' for w in _WORDS[name])
            raise ValueError(f"{name}: expected one of {allowed}, got {word!r}")
    return rule


def best_offset(misfit, *, offset: str, norm: str) -> Float[np.ndarray, "*any Y"]:
    """The c(y) [..., Y] that leaves least of `misfit` [..., A, Y]."""
    return offset_of(np.asarray(misfit, float), rule_of("simplex", offset, norm))


def dual_bound(
    dual: Float[np.ndarray, "*any A Y"],
    user_utility: Float[np.ndarray, "*any A Y"],
    agent_utilities: Float[np.ndarray, "*any K A Y"],
    near: Float[np.ndarray, "*any K"],
    *,
    weights: str,
    offset: str,
    norm: str,
) -> Float[np.ndarray, "*any"]:
    """A lower bound on the error of any weights and offset, from any `dual` q [A, Y], by weak duality.

    q is first made admissible: orthogonal to offsets, of size at most 1 in the dual norm (l1 for sup). Then
    error >= <q, residual> = sum_i w_i <q, U_i> - <q, u>, that is min_i <q, U_i - u> on the simplex, and
    -<q, u> on the cone if all <q, U_i> >= 0. There, what <q, U_i> lacks of 0 (rounding) is charged to
    weights of sum_i w_i |U_i| up to REACH times that at `near` (or |u|); the error is convex in w, so weights R
    times as far can beat error - gap by at most R gaps more."""
    rule = rule_of(weights, offset, norm)
    user, agents = centre(user_utility, rule), centre(agent_utilities, rule)
    q = admissible(dual, rule)
    if rule.simplex:
        least = np.einsum("...kay,...ay->...k", agents - user[..., None, :, :], q).min(-1)
        return np.asarray(np.maximum(least, 0))
    slopes = np.einsum("...kay,...ay->...k", agents, q)
    size = size_of(agents, norm)
    lack = (np.maximum(-slopes, 0) / np.where(size > 0, size, 1)).max(-1)
    total = REACH * np.maximum((near * size).sum(-1), size_of(user, norm))
    return np.asarray(np.maximum(-(q * user).sum((-2, -1)) - total * lack, 0))


def polished(dual, w, user, agents, rule: Rule) -> np.ndarray:
    """`dual` without the rounding that an agent far larger than the error, or a small residual, makes of it.

    At the best fit <q, U_i - u> (cone: <q, U_i>) is the same for all agents in use and larger for the others;
    the smallest change that makes it so, with a few ulps to spare in each agent's own size."""
    q = admissible(dual, rule)
    tables = agents - user if rule.simplex else agents
    size = size_of(tables, rule.norm)
    slopes = np.tensordot(tables, q, 2)
    level = w @ slopes if rule.simplex else 0.0
    rows = ((w > 0) | (slopes < level)) & (size > 0)
    lack = (level - slopes[rows]) / size[rows] + 4 * np.finfo(float).eps
    change = np.linalg.lstsq(centre(tables[rows], rule).reshape(-1, q.size) / size[rows, None], lack)[0]
    return q + change.reshape(q.shape)


def admissible(dual: Float[np.ndarray, "*any A Y"], rule: Rule) -> Float[np.ndarray, "*any A Y"]:
    """`dual` orthogonal to offsets and of dual norm 1; zeros stay zeros in the sup case, where they are many."""
    if rule.norm == "l2":
        dual = centre(dual, rule)
        size = size_of(dual, "l2")[..., None, None]
    else:
        if rule.offset != "none":
            axes = (-2, -1) if rule.offset == "constant" else (-2,)
            up = np.maximum(dual, 0).sum(axes, keepdims=True)
            down = np.maximum(-dual, 0).sum(axes, keepdims=True)
            both = np.minimum(up, down)
            dual = dual * np.where(dual > 0, both / np.where(up > 0, up, 1), both / np.where(down > 0, down, 1))
        size = np.abs(dual).sum((-2, -1), keepdims=True)
    return np.where(size > 0, dual / np.where(size > 0, size, 1), 0.0)


def offset_of(x: Float[np.ndarray, "*any A Y"], rule: Rule) -> Float[np.ndarray, "*any Y"]:
    """The c(y) nearest to x: the midrange (sup) or the mean (l2) of what one number must fit."""
    if rule.offset == "none":
        return np.zeros((*x.shape[:-2], x.shape[-1]))
    axes = (-2, -1) if rule.offset == "constant" else (-2,)
    if rule.norm == "l2":
        c = x.mean(axes, keepdims=True)
    else:
        c = x.max(axes, keepdims=True) / 2 + x.min(axes, keepdims=True) / 2
    return np.broadcast_to(c, (*x.shape[:-2], 1, x.shape[-1]))[..., 0, :]


def split(x, rule: Rule):
    """x - c [..., A, Y] and c [..., Y]."""
    c = offset_of(x, rule)
    if rule.offset == "none":
        return np.array(x, np.float64), c
    x = x - c[..., None, :]
    again = offset_of(x, rule)  # the first rounds at the size of c
    return x - again[..., None, :], c + again


def centre(x, rule: Rule):
    return split(x, rule)[0]


def size_of(x: Float[np.ndarray, "*any A Y"], norm: str) -> Float[np.ndarray, "*any"]:
    largest = np.asarray(np.abs(x).max((-2, -1)))
    if norm == "sup":
        return largest
    unit = np.where(largest > 0, largest, 1.0)
    return np.asarray(unit * np.sqrt(((x / unit[..., None, None]) ** 2).sum((-2, -1))))


def scale_of(x, rule: Rule):
    """The size of a table of nothing but x's largest entry."""
    return np.abs(x).max((-2, -1)) * (np.sqrt(x.shape[-1] * x.shape[-2]) if rule.norm == "l2" else 1.0)


def total_of(w, agents, user, rule: Rule) -> float:
    """sum_i w_i |U_i| in units of |u|."""
    return float((w * scale_of(agents, rule)).sum() / max(float(scale_of(user, rule)), np.finfo(float).tiny))


def unit_of(user, agents, rule: Rule):
    """[...] of user [..., A, Y] and agents [..., K, A, Y]: the error of the best single agent (cone: of no agent), and
    what of it may be rounding."""
    hers = ROUNDING * scale_of(user, rule)
    if not rule.simplex:
        return size_of(centre(user, rule), rule.norm), hers
    singles = size_of(centre(centre(agents, rule) - centre(user, rule)[..., None, :, :], rule), rule.norm)
    best = singles.argmin(-1)[..., None]
    own = np.take_along_axis(scale_of(agents, rule), best, -1)[..., 0]
    return np.take_along_axis(singles, best, -1)[..., 0], hers + ROUNDING * own
