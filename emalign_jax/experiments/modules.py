"""The protocol, the user and the solver that a specification describes."""

from __future__ import annotations

import math
from typing import Any

from emalign_jax.equilibrium.best_response_dynamics import BestResponseDynamics
from emalign_jax.experiments.specification import BUILT_IN_PROTOCOLS, Flat, Protocol, Solver, User
from emalign_jax.internal import memory
from emalign_jax.internal.registry import Registry
from emalign_jax.play import GradientPlay
from emalign_jax.play.solver import AbstractSolver
from emalign_jax.protocols import Comparison, Conversation, Pooled, Selection
from emalign_jax.protocols.base import PROTOCOLS, AbstractProtocol
from emalign_jax.users.base import USERS, AbstractUser
from emalign_jax.users.fixed_replies import FixedReplies

SHARED_PARAMETERS = frozenset({"temperature", "compare", "rounds", "replies", "reply_to"})
COMMON = {"kind", "messages", "reply_rule"}  # fields of a section that are no parameters of the class
STEP = 64  # bytes that the schedule of play holds for a step


def takes(registry: Registry, kind: str) -> set[str]:
    """The keys that a kind of protocol or user takes, but for those that all take."""
    if registry is PROTOCOLS and kind in BUILT_IN_PROTOCOLS:
        return set(SHARED_PARAMETERS)
    return set(registry.parameters(kind)) if kind in registry else set()


def kind_of_user(kind: str | None, precision: float) -> str:
    """The kind that is meant where none is given."""
    return kind or ("rational" if precision == math.inf else "quantal")


def make_protocol(section: Protocol) -> AbstractProtocol:
    """The protocol. With compare selection is `Comparison`, with rounds it is followed by a conversation.

    Raises `ValueError` that begins with protocol.KEY.
    """
    if section.kind not in BUILT_IN_PROTOCOLS:
        PROTOCOLS.of(section.kind, "protocol.kind")
        return PROTOCOLS.make(section.kind, _given(section, PROTOCOLS, section.kind), "protocol.kind")
    _given(section, PROTOCOLS, section.kind)
    kind, rounds, replies, temperature = section.kind, section.rounds, section.replies, section.temperature
    if kind != "selection" and temperature != 0:
        raise ValueError(f"protocol.temperature: belongs to protocol.kind selection; leave it out with {kind}")
    if section.compare is not None:
        if kind != "selection" or rounds not in (None, 1) or replies is not None or temperature != 0:
            raise ValueError(
                "protocol.compare: belongs to protocol.kind selection in one round at temperature 0; leave it out, or "
                "protocol.rounds, protocol.replies and protocol.temperature"
            )
        return Comparison(section.compare)
    several = Conversation(2 if rounds is None else rounds, 2 if replies is None else replies, section.reply_to)
    if kind == "conversation":
        return several
    if kind == "pooled" and (rounds not in (None, 1) or replies is not None):
        raise ValueError(
            "protocol.rounds, protocol.replies: belong to protocol.kind conversation or selection; pooled is one round"
        )
    if rounds in (None, 1) and replies is not None:
        raise ValueError("protocol.replies: needs protocol.rounds of 2 or more")
    if kind == "pooled":
        return Pooled()
    return Selection(temperature) if rounds in (None, 1) else Selection(temperature, several)


def make_user(section: User, protocol: AbstractProtocol) -> AbstractUser:
    """The user; without a kind a quantal one of the given precision, a rational one if that is infinite.

    Raises `ValueError` that begins with user.KEY.
    """
    if not section.precision > 0:
        raise ValueError(f"user.precision: expected a number > 0 or inf, got {section.precision}")
    kind = kind_of_user(section.kind, section.precision)
    acting = USERS.make(kind, _given(section, USERS, kind), "user.kind")
    if section.reply_rule == "plans":
        return acting
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


def _given(section: Protocol | User, registry: Registry, kind: str) -> Flat:
    """The parameters of the named class that were given. Raises `ValueError` for others."""
    named = {key: getattr(section, key) for key in sorted(section.model_fields_set - COMMON)} | section.extra
    if section.kind is None and kind == "rational":
        named.pop("precision", None)  # It was infinite, which is what made the user rational.
    for key in named.keys() - takes(registry, kind):
        raise ValueError(f"{registry.what}.{key}: {kind} has no such parameter; leave it out")
    return named
