"""Plain words and numbers, from a command line or a config, become protocols, users and solvers."""

from __future__ import annotations

import enum
import math
from typing import Any

from emalign_jax.equilibrium.best_response_dynamics import BestResponseDynamics
from emalign_jax.internal import memory
from emalign_jax.internal.arguments import integer, shown
from emalign_jax.internal.registry import Registry
from emalign_jax.play import GradientPlay
from emalign_jax.play.solver import AbstractSolver
from emalign_jax.protocols import Comparison, Conversation, Pooled, Selection
from emalign_jax.protocols.base import PROTOCOLS, AbstractProtocol
from emalign_jax.users.base import USERS, AbstractUser
from emalign_jax.users.fixed_replies import FixedReplies

# These are made of the options that commands and configs share; of any other kind the arguments of the class are keys.
BUILT_IN_PROTOCOLS = ("pooled", "selection", "conversation")
SHARED_PARAMETERS = frozenset({"temperature", "compare", "rounds", "replies"})
STEP = 64  # bytes that the schedule of play holds for a step


class ReplyTo(enum.StrEnum):
    each = "each"
    all = "all"


class ReplyRule(enum.StrEnum):
    plans = "plans"
    babbling = "babbling"
    truthful = "truthful"
    questions = "questions"


class Ties(enum.StrEnum):
    agents = "agents"
    lowest = "lowest"
    highest = "highest"
    uniform = "uniform"


class Method(enum.StrEnum):
    play = "play"
    best_responses = "best_responses"


def make_protocol(kind: str, given: dict[str, Any], reply_to: str = "each") -> AbstractProtocol:
    """The protocol that is called `kind`.

    given: its parameters, None for those that are left to it. Of the three built-in kinds these are temperature,
        compare, rounds and replies: with compare selection is `Comparison`, with rounds it is followed by a
        conversation. Of a class from a plugin they are the arguments of the class.
    Raises `ValueError` that begins with the name of a parameter as an option, or with protocol.NAME.
    """
    given = {name: value for name, value in given.items() if value is not None}
    PROTOCOLS.of(kind, "--protocol")
    if kind not in BUILT_IN_PROTOCOLS:
        _refuse_options(kind, given.keys() & SHARED_PARAMETERS, PROTOCOLS)
        return PROTOCOLS.make(kind, given, "--protocol")
    if others := given.keys() - SHARED_PARAMETERS:
        raise ValueError(f"protocol.{min(others)}: {kind} has no such parameter, only options of the command")
    temperature = given.get("temperature", 0.0)
    if kind != "selection" and temperature != 0:
        raise ValueError(f"--temperature: belongs to --protocol selection; leave it out with {kind}")
    rounds, replies, compare = (
        integer(f"--{name}", given[name], 1) if name in given else None for name in ("rounds", "replies", "compare")
    )
    if compare is not None:
        if kind != "selection" or rounds not in (None, 1) or replies is not None or temperature != 0:
            raise ValueError(
                "--compare: belongs to --protocol selection in one round at temperature 0; leave it out, or "
                "--rounds, --replies and --temperature"
            )
        return Comparison(compare)
    if kind == "conversation":
        return Conversation(2 if rounds is None else rounds, 2 if replies is None else replies, reply_to)
    if kind == "pooled":
        if rounds not in (None, 1) or replies is not None:
            raise ValueError("--rounds, --replies: belong to --protocol conversation or selection; pooled is one round")
        return Pooled()
    if rounds in (None, 1):
        if replies is not None:
            raise ValueError("--replies: needs --rounds of 2 or more")
        return Selection(temperature)
    return Selection(temperature, Conversation(rounds, 2 if replies is None else replies, reply_to))


def make_user(kind: str | None, given: dict[str, Any], rule: str, protocol: AbstractProtocol) -> AbstractUser:
    """The user that is called `kind`; without a kind a quantal one of the given precision, a rational one if that is
    infinite or not given.

    given: parameters, None for those that are left to it. rule: how the user replies in a conversation.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if "precision" in given:
        given["precision"] = _precision(given["precision"])
    if kind is None:
        kind = "rational" if given.get("precision", math.inf) == math.inf else "quantal"
        if kind == "rational":
            given.pop("precision", None)
    else:
        USERS.of(kind, "--user")
    _refuse_options(kind, given.keys() & {"precision", "ties"}, USERS)
    precision = USERS.parameters(kind).get("precision")
    if precision is not None and precision.default is precision.empty and "precision" not in given:
        raise ValueError(f"--precision: a {kind} user needs a number > 0")
    acting = USERS.make(kind, given, "--user")
    if rule == ReplyRule.plans:
        return acting
    if protocol.conversation is None:
        raise ValueError(f"--reply-rule: {rule} needs a conversation; take --protocol conversation or --rounds")
    return FixedReplies(str(rule), acting)


def _refuse_options(kind: str, options: set[str], registry: Registry) -> None:
    """Raise `ValueError` for an option that is no parameter of the class."""
    for name in sorted(options - registry.parameters(kind).keys()):
        raise ValueError(f"--{name}: {kind} has no such parameter; leave it out")


def _precision(text: Any) -> float:
    try:
        precision = float(text)
    except (TypeError, ValueError):
        raise ValueError(f"--precision: expected a number > 0 or inf, got {shown(text)}") from None
    if not precision > 0:
        raise ValueError(f"--precision: expected a number > 0 or inf, got {shown(text)}")
    return precision


def make_solver(
    method: Method, steps: int | None, tolerance: float | None, extrapolation: str = "none"
) -> AbstractSolver:
    """steps: of play, or best responses a start; None is the solver's default. tolerance: None is that of protocol and
    user, `exact.default_tolerance`."""
    if steps is not None:
        integer("steps", steps, 1)
        memory.require(STEP * steps, f"steps: the schedule of {steps} steps")
    own: dict[str, Any] = {} if steps is None else {"steps": steps}
    if method is Method.play:
        return GradientPlay(tolerance=tolerance, extrapolation=extrapolation, **own)
    if extrapolation != "none":
        raise ValueError("--extrapolation: belongs to --method play; leave it out with best_responses")
    return BestResponseDynamics(tolerance=tolerance, **own)
