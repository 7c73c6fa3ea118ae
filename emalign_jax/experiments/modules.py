"""The protocol, the user and the solver that a specification describes."""

from __future__ import annotations

import math
from typing import Any

from emalign_jax.equilibrium.best_response_dynamics import BestResponseDynamics
from emalign_jax.experiments.specification import BUILT_IN_PROTOCOLS, Flat, Protocol, Solver, User
from emalign_jax.internal import memory
from emalign_jax.play import GradientPlay
from emalign_jax.play.solver import AbstractSolver
from emalign_jax.protocols import Comparison, Conversation, Pooled, Selection
from emalign_jax.protocols.base import PROTOCOLS, AbstractProtocol
from emalign_jax.users.base import USERS, AbstractUser
from emalign_jax.users.fixed_replies import FixedReplies
from emalign_jax.users.perception import BaseRateNeglect, Conservative

SHARED_PARAMETERS = frozenset({"temperature", "compare", "rounds", "replies", "reply_to"})
COMMON = {
    "kind",
    "messages",
    "reply_rule",
    "weight",
    "neglect",
}  # fields of a section that are no parameters of the class
STEP = 64  # bytes that the schedule of play holds for a step


def kind_of_user(kind: str | None, precision: float) -> str:
    """The kind that is meant where none is given."""
    return kind or ("rational" if precision == math.inf else "quantal")


def make_protocol(section: Protocol) -> AbstractProtocol:
    """The protocol. With compare selection is `Comparison`, with rounds it is followed by a conversation.

    Raises `ValueError` that begins with protocol.KEY.
    """
    if section.kind not in BUILT_IN_PROTOCOLS:
        return PROTOCOLS.make(section.kind, _given(section), "protocol.kind")
    kind, rounds, replies, temperature = section.kind, section.rounds, section.replies, section.temperature
    one_round = rounds in (None, 1)
    if kind != "selection" and temperature != 0:
        raise ValueError(f"protocol.temperature: belongs to protocol.kind selection; leave it out with {kind}")
    if section.compare is not None:
        if kind != "selection" or not one_round or replies is not None or temperature != 0:
            raise ValueError(
                "protocol.compare: belongs to protocol.kind selection in one round at temperature 0; leave it out, or "
                "protocol.rounds, protocol.replies and protocol.temperature"
            )
        return Comparison(section.compare)
    if kind == "pooled" and (not one_round or replies is not None):
        raise ValueError(
            "protocol.rounds, protocol.replies: belong to protocol.kind conversation or selection; pooled is one round"
        )
    if kind == "pooled":
        return Pooled()
    if kind == "selection" and one_round and replies is None:
        return Selection(temperature)
    if kind == "selection" and one_round:
        raise ValueError("protocol.replies: needs protocol.rounds of 2 or more")
    several = Conversation(2 if rounds is None else rounds, 2 if replies is None else replies, section.reply_to)
    return several if kind == "conversation" else Selection(temperature, several)


def make_user(section: User, protocol: AbstractProtocol) -> AbstractUser:
    """The user; without a kind a quantal one of the given precision, a rational one if that is infinite. With another
    weight than 1 it is `Conservative`, with a neglect above 0 `BaseRateNeglect`.

    Raises `ValueError` that begins with user.KEY.
    """
    if not section.precision > 0:
        raise ValueError(f"user.precision: expected a number > 0 or inf, got {section.precision}")
    kind = kind_of_user(section.kind, section.precision)
    given = _given(section)
    if section.kind is None and kind == "rational":
        given.pop("precision", None)  # It was infinite, which is what made the user rational.
    acting = USERS.make(kind, given, "user.kind")
    user = acting if section.reply_rule == "plans" else _with_reply_rule(section, acting, protocol)
    user = user if section.neglect == 0 else BaseRateNeglect(user, section.neglect)
    return user if section.weight == 1 else Conservative(user, section.weight)


def _with_reply_rule(section: User, acting: AbstractUser, protocol: AbstractProtocol) -> AbstractUser:
    if protocol.conversation is None:
        raise ValueError(
            f"user.reply_rule: {section.reply_rule} needs a conversation; take protocol.kind conversation, or "
            "protocol.rounds"
        )
    return FixedReplies(section.reply_rule, acting)


def make_solver(section: Solver, tolerance: float | None) -> AbstractSolver:
    """tolerance: None is that of protocol and user, `exact.default_tolerance`. Raises `ValueError`: solver.KEY."""
    if section.steps is not None:
        memory.require(STEP * section.steps, f"solver.steps: the schedule of {section.steps} steps")
    own: dict[str, Any] = {} if section.steps is None else {"steps": section.steps}
    if section.method == "play":
        return GradientPlay(tolerance=tolerance, extrapolation=section.extrapolation, **own)
    if section.extrapolation != "none":
        raise ValueError("solver.extrapolation: belongs to solver.method play; leave it out with best_responses")
    return BestResponseDynamics(tolerance=tolerance, **own)


def _given(section: Protocol | User) -> Flat:
    """The parameters of the named class that were given."""
    return {key: getattr(section, key) for key in sorted(section.model_fields_set - COMMON)} | section.extra
