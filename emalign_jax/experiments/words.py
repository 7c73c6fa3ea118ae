"""Plain words, from a command line or a config, become protocols and users."""

from __future__ import annotations

import enum
from typing import Any

from emalign_jax.equilibrium.best_response_dynamics import BestResponseDynamics
from emalign_jax.equilibrium.solver import Solver
from emalign_jax.internal import memory
from emalign_jax.internal.arguments import integer, shown
from emalign_jax.play import GradientPlay
from emalign_jax.protocols import AbstractProtocol, Comparison, Conversation, Pooled, Selection
from emalign_jax.users.base import AbstractUser
from emalign_jax.users.fixed_replies import FixedReplies
from emalign_jax.users.quantal import QuantalUser
from emalign_jax.users.rational import RationalUser

STEP = 64  # bytes that the schedule of play holds for a step


class Protocol(enum.StrEnum):
    pooled = "pooled"
    selection = "selection"
    conversation = "conversation"


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


def make_protocol(
    protocol: Protocol,
    temperature: float,
    rounds: int | None,
    replies: int | None,
    reply_to: ReplyTo,
    compare: int | None = None,
) -> AbstractProtocol:
    if protocol is not Protocol.selection and temperature != 0:
        raise ValueError(f"--temperature: belongs to --protocol selection; leave it out with {protocol.value}")
    for option, value in (("--rounds", rounds), ("--replies", replies), ("--compare", compare)):
        if value is not None and value < 1:
            raise ValueError(f"{option}: expected an integer >= 1, got {value}")
    if compare is not None:
        if protocol is not Protocol.selection or rounds not in (None, 1) or replies is not None or temperature != 0:
            raise ValueError(
                "--compare: belongs to --protocol selection in one round at temperature 0; leave it out, or "
                "--rounds, --replies and --temperature"
            )
        return Comparison(compare)
    if protocol is Protocol.conversation:
        return Conversation(2 if rounds is None else rounds, 2 if replies is None else replies, reply_to.value)
    if protocol is Protocol.pooled:
        if rounds not in (None, 1) or replies is not None:
            raise ValueError("--rounds, --replies: belong to --protocol conversation or selection; pooled is one round")
        return Pooled()
    if rounds in (None, 1):
        if replies is not None:
            raise ValueError("--replies: needs --rounds of 2 or more")
        return Selection(temperature)
    return Selection(temperature, Conversation(rounds, 2 if replies is None else replies, reply_to.value))


def make_user(precision: str, ties: Ties, rule: ReplyRule, protocol: AbstractProtocol) -> AbstractUser:
    """ "inf" is a rational user, a number > 0 a quantal one."""
    acting = _acting(precision, ties)
    if rule is ReplyRule.plans:
        return acting
    if protocol.conversation is None:
        raise ValueError(f"--reply-rule: {rule.value} needs a conversation; take --protocol conversation or --rounds")
    return FixedReplies(rule.value, acting)


def _acting(precision: str, ties: Ties) -> AbstractUser:
    try:
        number = float(precision)
    except ValueError:
        raise ValueError(f"--precision: expected a number > 0 or inf, got {shown(precision)}") from None
    if number == float("inf"):
        return RationalUser(ties.value)
    if not number > 0:
        raise ValueError(f"--precision: expected a number > 0 or inf, got {precision}")
    return QuantalUser(number)


def make_solver(method: Method, steps: int | None, tolerance: float | None, extrapolation: str = "none") -> Solver:
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
