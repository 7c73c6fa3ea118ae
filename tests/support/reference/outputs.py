"""What the reference outputs are of: protocols with users, bounds, smoothed equilibria, mechanisms.

All of it goes through public names of the package alone, so that it can be run before and after its modules move.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

import emalign_jax as em

Arrays = dict[str, np.ndarray]
Named = Iterator[tuple[str, Any]]

INFORMED = {"user_features": 2, "user_information": 0.3}
SHAPES: dict[str, dict[str, Any]] = {
    "wide": {"agents": 3, "states": 3, "actions": 3, **INFORMED},
    "small": {"agents": 2, "states": 2, "actions": 3, **INFORMED},
    "tiny": {"agents": 2, "states": 2, "actions": 2, **INFORMED},
    "alone": {"agents": 1, "states": 3, "actions": 3, **INFORMED},
}
FIELDS = "prior", "user_utility", "agent_utilities"  # of a game
CATALOG = "judge", "prosecutor_against_defender", "biased_advisers", "lobbying", "pharma_market", "informants"


class Pair(NamedTuple):
    """share: which part of the games of its shape the pair is tried on; messages: M."""

    shape: str
    protocol: em.AbstractProtocol
    user: em.AbstractUser
    share: float = 1.0
    messages: int = 2


def draw(count: int) -> Arrays:
    """`count` games of every shape, families in turn, and what else is drawn at random."""
    given: Arrays = {}
    for shape, sizes in SHAPES.items():
        each = -(-count // len(em.FAMILIES))
        families = [em.random_games(n, each, family=family, **sizes) for n, family in enumerate(em.FAMILIES)]
        for field in FIELDS:
            mixed = np.stack([np.asarray(getattr(games, field)) for games in families], 1)
            given[f"{shape}/{field}"] = mixed.reshape(-1, *mixed.shape[2:])[:count]
    for name in CATALOG:
        game = getattr(em.catalog, name)()
        given |= {f"catalog {name}/{field}": np.asarray(getattr(game, field)) for field in FIELDS}
    rng = np.random.default_rng(0)
    given["replies"] = rng.dirichlet(np.ones(4), size=(2, 4))  # of "tiny": 2 rounds, 2 messages, 2 replies
    given["precision"], given["temperature"] = rng.uniform(4, 12, count), rng.uniform(0.1, 0.5, count)
    for name, pair in pairs(given).items():
        games = games_of(given, pair.shape, pair.share)
        size = len(games), games.agents, pair.protocol.rows(games, pair.messages)
        given[f"{name}/start"] = rng.dirichlet(np.ones(pair.messages), size=size)
    return given


def games_of(given: Arrays, shape: str, share: float = 1.0) -> em.Game:
    arrays = (given[f"{shape}/{field}"] for field in FIELDS)
    return em.Game(*(x[: max(1, int(share * len(x)))] for x in arrays))


def pairs(given: Arrays) -> dict[str, Pair]:
    """All protocols with all users, by name."""
    rational = {f"rational_{ties}": em.RationalUser(ties) for ties in ("agents", "lowest", "highest", "uniform")}
    quantal = em.QuantalUser(8.0)
    replying = {
        "babbling_rational": em.FixedReplies("babbling", em.RationalUser("lowest")),
        "truthful_rational": em.FixedReplies("truthful", em.RationalUser()),
        "questions_quantal": em.FixedReplies("questions", quantal),
        "given_quantal": em.FixedReplies(given["replies"], quantal),
    }
    two, each = em.Conversation(2, 2), max(1, len(given["precision"]) // 4)
    found = {}
    for name, user in (rational | {"quantal": quantal}).items():
        first = name in ("rational_agents", "quantal")
        few = 0.25 if name == "quantal" else 1.0
        found[f"selection {name}"] = Pair("wide", em.Selection(), user, few, 3)
        found[f"comparison {name}"] = Pair("wide", em.Comparison(2), user, few, 3)
        found[f"pooled {name}"] = Pair("small", em.Pooled(), user, 0.5)
        if first:
            found[f"selection_soft {name}"] = Pair("wide", em.Selection(0.3), user, few, 3)
            found[f"comparison_soft {name}"] = Pair("wide", em.Comparison(2, 0.3), user, few, 3)
            found[f"conversation_1 {name}"] = Pair("small", em.Conversation(1, 1), user, 0.25)
            found[f"conversation_alone {name}"] = Pair("alone", two, user, 0.25, 3)
            found[f"conversation_to_all {name}"] = Pair("tiny", em.Conversation(2, 2, "all"), user, 0.1)
    for name, user in (rational | {"quantal": quantal} | replying).items():
        few = 0.25 if name in rational else 0.1
        found[f"conversation_2 {name}"] = Pair("tiny", two, user, few)
        if not name.startswith("given"):
            found[f"selection_then {name}"] = Pair("tiny", em.Selection(0.0, two), user, few)
    found["selection_soft_then quantal"] = Pair("tiny", em.Selection(0.3, two), quantal, 0.1)
    found["sampled quantal"] = Pair("tiny", em.SampledConversation(2, 2, samples=64), replying["questions_quantal"])
    by_game = em.Selection(given["temperature"][:each]), em.QuantalUser(given["precision"][:each])
    found["selection_by_game quantal"] = Pair("wide", *by_game, 0.25, 3)
    return found


def compute(given: Arrays, *, searched: bool, only: tuple[str, ...]) -> Named:
    """Outputs, (name, array), of the pairs and parts whose name begins with one of `only`; searched: all, else
    not those of searches. Profiles in which searches ended that `given` does not hold yet are found and put into it."""
    began = time.process_time()
    parts = {f"mechanism {name}": lambda n=name: _mechanism(given, n, searched) for name in em.mechanisms.MECHANISMS}
    for shape in (*SHAPES, *(f"catalog {name}" for name in CATALOG)):
        parts[f"bounds {shape}"] = lambda s=shape: _of_games(given, s, searched)
    for name, protocol in {"pooled": em.Pooled(), "selection": em.Selection(0.3)}.items():
        parts[f"smooth {name}"] = lambda n=f"smooth {name}", p=protocol: _smooth(given, n, p, searched)
    for name, pair in pairs(given).items():
        parts[name] = lambda n=name, p=pair: _of_pair(given, n, p, searched)
    for name, part in parts.items():
        if name.startswith(only):
            print(f"{time.process_time() - began:7.1f} s of CPU, now {name}", file=sys.stderr)
            yield from ((f"{name}/{quantity}", np.asarray(value)) for quantity, value in part())


# What equals another field for the users of the reference: what a user perceives is what it gets.
AGAIN = "perceived", "welfare"


def _fields(prefix: str, found) -> Named:
    """The arrays of a result, named tuple or dictionary, by name."""
    for name, value in _named(found).items():
        if isinstance(value, tuple | dict | em.Certificate):
            yield from _fields(f"{prefix}.{name}", value)
        elif value is not None and name not in ("stats", *AGAIN):
            yield f"{prefix}.{name}", value if isinstance(value, np.ndarray | jax.Array) else np.asarray(value, float)


def _named(found) -> dict:
    if isinstance(found, dict):
        return found
    return found._asdict() if isinstance(found, tuple) else {
        name: x for name, x in vars(found).items() if name not in ("labels", "starts")
    }  # fmt: skip


def _numbers(found) -> dict:
    """The fields of a `Solution` or of `Tuned` without result codes, which say how numbers were found."""
    return {name: x for name, x in _named(found).items() if name not in ("result", "found_by", "derivative", "stats")}


def _of_pair(given: Arrays, name: str, pair: Pair, searched: bool) -> Named:
    shape, protocol, user, share, _ = pair
    games, start = games_of(given, shape, share), given[f"{name}/start"]
    if name.startswith("sampled"):
        if searched:
            yield from _fields("sampled_payoffs", em.sampled_payoffs(games, start, protocol, user))
            yield from _fields("sampled_gradient", em.sampled_gradient(games, start, protocol, user))
        return
    yield from _fields("payoffs_at_start", em.payoffs(games, start, protocol, user))
    if name.endswith("quantal") and name.split()[0] not in (
        "selection",
        "selection_then",
        "comparison",
    ):  # whose choice jumps
        yield "pseudo_gradient", em.pseudo_gradient(games, start, protocol, user)
    unchecked = "comparison_soft quantal", "comparison_soft rational_agents", "comparison quantal"
    checked = name not in (*unchecked, "selection_soft rational_agents")  # the package has no exact check of these
    if searched or f"{name}/profile" not in given:
        found = em.solve(games, protocol, user, start=start, verify=checked)
        given.setdefault(f"{name}/profile", np.asarray(found.schemes))
        if searched:
            yield from _fields("solve", _numbers(found))
    if searched and name in ("selection rational_agents", "pooled quantal"):
        dynamics = em.BestResponseDynamics(steps=20, fresh_starts=0)
        yield from _fields("dynamics", _numbers(em.solve(games, protocol, user, dynamics, start=start)))
        yield from _fields("from_monopolies", _numbers(em.solve(games, protocol, user, start="monopolist", key=0)))
    profile = given[f"{name}/profile"]
    yield from _fields("payoffs_at_profile", em.payoffs(games, profile, protocol, user))
    if not checked:
        return
    for where, schemes in (("start", start), ("profile", profile)):
        yield from _fields(f"certify_{where}", em.certify(games, schemes, protocol, user))
    for agent in range(games.agents):
        best = em.best_response(games[0], start[0], agent, protocol, user)
        yield from _fields(f"best_response_{agent}", best.replace(exact=None))
        if not name.startswith("comparison") and "by_game" not in name and not name.endswith("given_quantal"):
            alone = em.Game(games.prior[0], games.user_utility[0], games.agent_utilities[0][agent : agent + 1])
            best = em.best_response(alone, start[0][agent : agent + 1], 0, protocol, user)
            yield from _fields(f"monopoly_{agent}", best.replace(exact=None))
    if name.startswith(("pooled", "conversation")) and not name.endswith("given_quantal"):
        yield from _fields("premises", em.premises(games, start, protocol, user))


def _of_games(given: Arrays, shape: str, searched: bool) -> Named:
    """What needs no schemes."""
    games = games_of(given, shape) if shape in SHAPES else em.Game(*(given[f"{shape}/{field}"] for field in FIELDS))
    if searched:  # it would hold anywhere, but takes seconds to compile
        yield from _fields("reduced", em.reduce_game(games))
    ends = em.stability(games)
    yield from _fields("stability", ends)
    if shape in SHAPES:  # with so many breakpoints each that games are padded
        share = np.linspace(0, 0.99, 12)
        none, full = ends.no_information[:, None], ends.full_information[:, None]
        asked = none + share * (full - none)
        gaps = [np.interp(*of) for of in zip(asked, ends.value, ends.gap, strict=True)]
        yield "stability.gap_between", np.array(gaps)
    users = {"rational": em.RationalUser(), "lowest": em.RationalUser("lowest"), "quantal": em.QuantalUser(8.0)}
    for name, user in users.items():
        for gains in (0.0, 0.1):
            yield f"worst_case_{name}_{gains}", em.worst_case(games, gains, user)
            yield from _fields(f"coverage_{name}_{gains}", em.coverage(games, gains, user, obedience=name != "quantal"))
    for kind in ("action", "outcome"):
        yield f"least_budget_{kind}", em.least_budget(games, kind=kind)
        yield from _fields(f"best_transfers_{kind}", em.best_transfers(games, 0.3, kind=kind))
    yield "least_budget_cone", em.least_budget(games, weights="cone")
    for weights in ("simplex", "cone"):
        for offset in ("none", "constant", "per_state"):
            for norm in ("sup", "l2"):
                fit = em.align(games.user_utility, games.agent_utilities, weights=weights, offset=offset, norm=norm)
                yield from _fields(f"align_{weights}_{offset}_{norm}", fit)


def _smooth(given: Arrays, name: str, protocol, searched: bool) -> Named:
    """Smoothed equilibria and their derivatives by what agents want, from given starts and at stored equilibria."""
    games = games_of(given, "small", 0.25)
    user = em.QuantalUser(5.0)

    def value(utilities, start, solver):
        under = em.Game(games.prior, games.user_utility, utilities, check="shapes")
        found = em.solve(under, protocol, user, solver, start=start, differentiation=em.Implicit())
        return found.user.sum(), found.replace(stats={})

    slope = jax.jit(jax.grad(value, has_aux=True))
    if searched or f"{name}/profile" not in given:
        start = given["pooled quantal/start"][: len(games)]
        by_utilities, found = slope(games.agent_utilities, start, em.SmoothPlay(10.0))
        given.setdefault(f"{name}/profile", np.asarray(found.schemes))
        if searched:
            yield "found.derivative", by_utilities
            yield from _fields("found", _numbers(found))
    newton = em.SmoothPlay(10.0, steps=0, settle=0)
    by_utilities, found = slope(games.agent_utilities, given[f"{name}/profile"], newton)
    yield "kept.derivative", by_utilities
    yield from _fields("kept", _numbers(found))


def _mechanism(given: Arrays, name: str, searched: bool) -> Named:
    """What parameters mean and cost, and what a few steps of tuning make of them."""
    games = games_of(given, "tiny")[:4]
    mechanism = em.mechanisms.MECHANISMS[name]()
    protocol, user = (em.Selection(0.3) if name == "temperature" else em.Pooled()), em.QuantalUser(5.0)
    params = mechanism.init(games)
    if (key := f"mechanism {name}/params") not in given:
        (leaf,) = jax.tree.leaves(params)  # every mechanism has one array
        given[key] = np.asarray(leaf) + 0.1
    params = jax.tree.map(lambda _: given[key], params)
    yield from _fields("means", mechanism.describe(params))
    yield "cost", mechanism.cost(params, games)
    under, *rest = mechanism.apply(params, games, protocol, user)
    yield from ((f"under.{field}", getattr(under, field)) for field in FIELDS)
    messages = rest[0].messages(under)
    size = games.agents, rest[0].rows(under, messages), messages
    mixed = np.linspace(1, 2, np.prod(size)).reshape(size) % 0.37 + 0.1
    yield from _fields("payoffs_under", em.payoffs(under, mixed / mixed.sum(-1, keepdims=True), *rest))
    if searched:
        solver = em.SmoothPlay(10.0)
        tuned = em.tune(games, protocol, user, mechanism, solver=solver, key=0, steps=8, params=params)
        yield from _fields("tuned", _numbers(tuned))
    if searched and name == "transfers":
        yield from _fields("evaluated", em.evaluate(games, protocol, user, mechanism, tuned.params, solver, key=0))
