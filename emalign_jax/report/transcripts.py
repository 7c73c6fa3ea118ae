"""A conversation as text: a tree of what may be said, with probabilities, beliefs, actions and payoffs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.checks.conversation_outcomes import action_distribution, conversation_outcome, reach
from emalign_jax.exact.responses import choose, is_known
from emalign_jax.games.game import Game, ReducedGame, faults, reduce_game
from emalign_jax.internal import batching
from emalign_jax.internal.arguments import integer, number, shown
from emalign_jax.internal.validation import on_host
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.protocols.schemes import check_schemes
from emalign_jax.protocols.standard_units import user_unit
from emalign_jax.users.base import AbstractUser
from emalign_jax.users.conversation_tree import Tree

Words = dict[str, list[str]]
NEVER = 1e-12  # a branch of smaller probability is rounding, and not shown
COLUMNS = 8  # x_B, at most, with a column each; beliefs over more are written out
SHOWN = 3  # actions, or x_B, at most, of a distribution that is written out


def transcript_tree(
    game: Game,
    schemes,
    protocol: AbstractProtocol,
    user: AbstractUser,
    *,
    user_feature: int | None = None,
    at_least: float = 0.01,
    names: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """What may be said in a conversation of one game, as a tree in text.

    A line for the messages of a round, and one for each reply. Columns: "chance" of the step, given the line it hangs
    from; "reached", the probability of getting there; the user's belief over x_B; and at the end the action, the user's
    expected utility and the agents'. The last line adds up. Under ties="agents" there is one tree an agent; shown is
    that of the agent that is talked to, or of agent 0 where the user talks to all.

    Args:
        game: one game.
        schemes: [K, rows, M], or a `Solution`.
        protocol: a `Conversation`, or `Selection(then=Conversation(...))`.
        user: a `QuantalUser`, a `RationalUser`, or `FixedReplies` over one of them.
        user_feature: x_A of the user who talks; all probabilities are then given that x_A. None: the tree branches
            on x_A first.
        at_least: branches of smaller probability are added up in one line.
        names: of "actions", "x_A", "x_B", "agents": a list of words each; by default the labels of the game.

    Raises:
        ValueError: for a batch of games, a malformed game, wrong shapes, an x_A that there is not or never happens.

    Example:
        >>> game, honest = em.catalog.judge(), em.full_revelation(1, 2, 2)
        >>> print(em.transcript_tree(game, honest, em.Conversation(1), em.RationalUser()))
                                               belief over x_B
                              chance  reached  innocent guilty  action   value  prosecutor
        start                               1       .70    .30
        ├─ prosecutor says 0    .700     .700         1      ·  acquit   1.000       0.000
        └─ prosecutor says 1    .300     .300         ·      1  convict  1.000       1.000
        total                               1                            1.000       0.300
    """
    title, lines, words = transcript(game, schemes, protocol, user, user_feature, at_least, names)
    return "\n".join(([title] if title else []) + _table(lines, words))


def transcript(game, schemes, protocol, user, user_feature, at_least, names) -> tuple[str | None, list[Line], Words]:
    """What `transcript_tree` and its figure show: a title, the lines of the tree and one that adds up, and the words.
    Arguments and what is raised as there."""
    game, schemes, protocol, user = on_host(game=game, schemes=schemes, protocol=protocol, user=user)
    if game.batch_shape:
        raise ValueError(f"game: expected one game, got a batch of {list(game.batch_shape)}: take game[k]")
    fault = str(faults(game))
    if fault:
        raise ValueError(fault)
    conversation = protocol.conversation
    if conversation is None:
        raise ValueError(
            f"protocol: expected a Conversation or Selection(then=Conversation(...)), got {type(protocol).__name__}; "
            "a single round is Conversation(1)"
        )
    schemes = check_schemes(game, schemes, protocol)
    if schemes.ndim > 3:
        raise ValueError(f"schemes: expected [K, rows, M] for one game, got {list(schemes.shape)}")
    if not np.isfinite(schemes).all():
        raise ValueError("schemes: expected finite numbers")
    user.check(game, protocol, schemes.shape[-1])
    protocol.check(game, schemes.shape[-1])
    if user.plain is not user or not is_known(user.acting):
        raise ValueError(
            f"user: expected QuantalUser, RationalUser or FixedReplies over one of them, got {type(user).__name__}"
        )
    if not isinstance(names, Mapping | None):
        raise ValueError(f"names: expected a dictionary of lists of words, got {shown(names)}")
    at_least = number("at_least", at_least, "a probability in [0, 1)", lambda x: 0 <= x < 1)
    user = batching.item(user, 0)
    reduced: Any = reduce_game(game, np)
    types = _types(reduced.mass, user_feature)
    words = _words(game, names)
    tree = conversation.tree(game.agents if conversation is protocol else 1, schemes.shape[-1])
    title, favoured, picked = None, [0], np.ones(1)
    if conversation is not protocol:
        picks: Any = batching.item(protocol, 0)
        picked = _picked(reduced, schemes, tree, user, float(picks.temperature))
        favoured = [i for i in range(game.agents) if picked[i] > NEVER]
        chances = [f"{words['agents'][i]} ({_chance(picked[i])})" for i in favoured]
        title = f"The user picks {_listed(chances)}."
    elif user.favours and game.agents > 1:
        title = f"Ties go to {words['agents'][0]}."
    talks = []
    for i in favoured:
        rules = schemes if conversation is protocol else schemes[i : i + 1]
        speaker = "agents say" if len(rules) > 1 else f"{words['agents'][i]} says"
        talks.append(_Transcripts(reduced, rules, tree, user, reduced.agents[i], speaker, words))
    start = _start(talks, [float(picked[i]) for i in favoured], favoured, types, user_feature is not None)
    lines, total = list(_lines(start, at_least, None)), start.mass.sum()
    return title, [*lines, Line("total", "", None, total, paid=start.paid / total)], words


def _types(mass: Float[np.ndarray, "XA XB"], user_feature: int | None) -> dict[int, float]:
    """Each x_A of the tree that can happen, with its probability."""
    chances = mass.sum(1)
    if user_feature is None:
        return {xa: float(chance) for xa, chance in enumerate(chances) if chance > 0}
    user_feature = integer("user_feature", user_feature, 0)
    if user_feature >= len(mass):
        raise ValueError(f"user_feature: expected an index below XA = {len(mass)}, got {user_feature}")
    if not chances[user_feature] > 0:
        raise ValueError(f"user_feature: x_A = {user_feature} never happens in this game")
    return {user_feature: float(chances[user_feature])}


def _words(game: Game, names: Mapping[str, Sequence[str]] | None) -> dict[str, list[str]]:
    fields = {"actions": "actions", "x_A": "user_features", "x_B": "agent_features", "agents": "agents"}
    words = {what: list(game.names(field)) for what, field in fields.items()}
    if game.agents == 1 and (game.labels is None or game.labels.agents is None):
        words["agents"] = ["agent"]
    for what, given in (names or {}).items():
        if what not in words:
            raise ValueError(f"names: expected some of {', '.join(words)}, got {what!r}")
        if isinstance(given, str) or len(given) != len(words[what]):
            raise ValueError(f"names: expected {len(words[what])} words for {what}, got {given!r}")
        words[what] = [str(word) for word in given]
    return words


def _picked(game: ReducedGame, schemes, tree: Tree, user, temperature: float) -> Float[np.ndarray, "K"]:
    values = [
        float((action_distribution(game, scheme[None], tree, user, own) * game.user).sum())
        for scheme, own in zip(schemes, game.agents, strict=True)
    ]
    return choose(np.array(values), temperature, user_unit(game, user))


class _Step(NamedTuple):
    """One line of the tree and what hangs from it.

    mass: probability of being here with each x_B; paid [1 + K]: the user's and the agents' expected utility,
    times that of being here; action: where the user acts.
    """

    label: str
    mass: Float[np.ndarray, "XB"]
    paid: Float[np.ndarray, "P"]
    steps: Iterator[_Step]
    action: Float[np.ndarray, "A"] | None = None
    told: bool = True  # whether the belief is new


class _Transcripts:
    """All transcripts of a conversation: chances, the user's choices, and what it pays to go on from there."""

    def __init__(self, game: Any, rules, tree: Tree, user, favour, speaker: str, words):
        self.game: Any = game  # NumPy float64
        self.tree, self.speaker, self.words = tree, speaker, words
        self.levels = reach(tree, rules)
        told = conversation_outcome(game, rules, tree, user, favour)
        self.action, self.replies, self.going_on = told.action, told.replies, []
        everybody = np.concatenate([game.user[None], game.agents])  # [1 + K, XA, XB, A]
        totals = np.einsum("pxba,tb->pxta", everybody, self.levels[-1])
        self.after = [(self.action * totals).sum(-1)]  # by round: [1 + K, XA, T], once the messages are heard
        for r in range(tree.rounds - 2, -1, -1):
            split = (tree.reply_nodes(r), tree.joint_replies, tree.joint_messages)
            options = self.after[0].reshape(*self.after[0].shape[:2], *split).sum(-1)
            self.going_on.insert(0, options)
            self.after.insert(0, (self.replies[r] * options).sum(-1))

    def begin(self, xa: int, share: float) -> tuple[np.ndarray, np.ndarray, Iterator[_Step]]:
        """mass, paid and the first messages of x_A; share: of all probability, over that of x_A."""
        return share * self.game.mass[xa], share * self.after[0][:, xa].sum(-1), self.messages(xa, 0, 0, share)

    def messages(self, xa: int, r: int, node: int, heard: float) -> Iterator[_Step]:
        """heard: the probability of the user's replies on the way here."""
        last = r == self.tree.rounds - 1
        for n, said in enumerate(self.tree.joint_message):
            t = node * self.tree.joint_messages + n
            yield _Step(
                f"{self.speaker} {' '.join(map(str, said))}",
                heard * self.levels[r][t] * self.game.mass[xa],
                heard * self.after[r][:, xa, t],
                iter(()) if last else self.answers(xa, r, t, heard),
                self.action[xa, t] if last else None,
            )

    def answers(self, xa: int, r: int, t: int, heard: float) -> Iterator[_Step]:
        if self.tree.joint_replies == 1:
            yield from self.messages(xa, r + 1, t, heard)
            return
        for q, said in enumerate(self.tree.joint_reply):
            chance = heard * float(self.replies[r][xa, t, q])
            words = said[:1] if self.tree.reply_to_all else said
            yield _Step(
                f"user replies {' '.join(map(str, words))}",
                chance * self.levels[r][t] * self.game.mass[xa],
                chance * self.going_on[r][:, xa, t, q],
                self.messages(xa, r + 1, t * self.tree.joint_replies + q, chance),
                told=False,
            )


def _start(talks: list[_Transcripts], picked, favoured, types: dict[int, float], given: bool) -> _Step:
    whole = sum(types.values()) if given else 1.0

    def users(talk: _Transcripts, chance: float) -> Iterator[_Step]:
        for xa in types:
            yield _Step(f"x_A = {talk.words['x_A'][xa]}", *talk.begin(xa, chance / whole))

    def talked(talk: _Transcripts, chance: float, label: str) -> _Step:
        parts = [talk.begin(xa, chance / whole) for xa in types]
        mass, paid = _sum(part[0] for part in parts), _sum(part[1] for part in parts)
        if len(parts) == 1:
            return _Step(label, mass, paid, parts[0][2])
        return _Step(label, mass, paid, users(talk, chance))

    one = next(iter(types))
    label = f"x_A = {talks[0].words['x_A'][one]}" if len(types) == 1 and len(talks[0].words["x_A"]) > 1 else "start"
    if len(talks) == 1:
        return talked(talks[0], 1.0, label)
    steps = [talked(t, p, f"talks to {t.words['agents'][i]}") for t, p, i in zip(talks, picked, favoured, strict=True)]
    return _Step(label, _sum(step.mass for step in steps), _sum(step.paid for step in steps), iter(steps))


def _sum(arrays: Iterable[np.ndarray]) -> np.ndarray:
    return np.sum(list(arrays), axis=0)


class Line(NamedTuple):
    """branches: it hangs from, three letters a step; reached, chance: probabilities; belief [XB], action [A] and paid
    [1 + K] (given that it is reached) where there is something to say."""

    label: str
    branches: str
    chance: float | None
    reached: float
    belief: np.ndarray | None = None
    action: np.ndarray | None = None
    paid: np.ndarray | None = None


def _lines(step: _Step, at_least: float, chance: float | None, first: str = "", rest: str = "") -> Iterator[Line]:
    """This step's line and those below; first, rest: what is drawn before its line, and before those below."""
    here = step.mass.sum()
    belief = step.mass / here if step.told else None
    paid = None if step.action is None else step.paid / here
    yield Line(step.label, first, chance, here, belief, step.action, paid)
    shown, left, mass, value = [], 0, 0.0, np.zeros_like(step.paid)
    for below in step.steps:
        reached = below.mass.sum()
        if reached >= max(at_least, NEVER):
            shown.append(below)
        elif reached > NEVER:
            left, mass, value = left + 1, mass + reached, value + below.paid
    for k, below in enumerate(shown):
        last = k == len(shown) - 1 and not left
        corner, bar = ("└─ ", "   ") if last else ("├─ ", "│  ")
        yield from _lines(below, at_least, below.mass.sum() / here, rest + corner, rest + bar)
    if left:
        yield Line(f"{left} more, together", f"{rest}└─ ", mass / here, mass, paid=value / mass)


def _table(lines: list[Line], words: Words) -> list[str]:
    each = len(words["x_B"]) <= COLUMNS
    paid = _numbers([line.paid for line in lines], 1 + len(words["agents"]))
    columns = [
        ("", "<", [line.branches + line.label for line in lines]),
        ("chance", ">", ["" if line.chance is None else _chance(line.chance) for line in lines]),
        ("reached", ">", [_chance(line.reached) for line in lines]),
    ]
    beliefs = [line.belief for line in lines]
    if each:
        for xb, name in enumerate(words["x_B"]):
            column = ["" if belief is None else _share(float(belief[xb])) for belief in beliefs]
            columns.append((name, ">", column))
    else:
        written = ["" if belief is None else _written(belief, words["x_B"]) for belief in beliefs]
        columns.append(("belief over x_B", "<", written))
    acts = ["" if line.action is None else _written(line.action, words["actions"]) for line in lines]
    columns.append(("action", "<", acts))
    columns.append(("value", ">", paid[0]))
    columns += [(name, ">", paid[1 + i]) for i, name in enumerate(words["agents"])]
    widths = [max(len(name), *map(len, cells)) for name, _, cells in columns]
    gaps = [1 if each and 3 < k < 3 + len(words["x_B"]) else 2 for k in range(len(columns))]
    gaps[0] = 0

    def row(cells):
        parts = (
            f"{' ' * gap}{cell:{align}{width}}"
            for cell, (_, align, _), width, gap in zip(cells, columns, widths, gaps, strict=True)
        )
        return "".join(parts).rstrip()

    head = [row([name for name, _, _ in columns])]
    if each:
        at = sum(widths[:3]) + sum(gaps[:4])
        head.insert(0, " " * at + "belief over x_B")
    return head + [row(cells) for cells in zip(*(cells for _, _, cells in columns), strict=True)]


def _chance(p: float) -> str:
    """Three decimals; more where there would be nothing left."""
    if p > 1 - 5e-4:
        return "1.000" if p < 1 - NEVER else "1"
    return f"{p:.3f}"[1:] if p >= 5e-4 else f"{p:.0e}"


def _share(p: float) -> str:
    """Two decimals, and a dot for what (nearly) cannot be."""
    if p > 0.995:
        return "1"
    return f"{p:.2f}"[1:] if p > 5e-4 else "·"


def _written(chances: Float[np.ndarray, "n"], words: list[str]) -> str:
    """A distribution in words: the likeliest first, all of it if there is only one."""
    order = np.argsort(-chances, kind="stable")
    if chances[order[0]] > 0.995:
        return words[order[0]]
    likely = [i for i in order if chances[i] >= 0.005]
    parts = [f"{words[i]} {_share(float(chances[i]))}" for i in likely[:SHOWN]]
    if len(likely) > SHOWN:
        parts.append(f"+{len(likely) - SHOWN} {_share(float(chances[likely[SHOWN:]].sum()))}")
    return " ".join(parts)


def _numbers(paid: list[np.ndarray | None], columns: int) -> list[list[str]]:
    """Each column with as many decimals as its largest number needs."""
    out: list[list[str]] = []
    for k in range(columns):
        numbers = [None if row is None else float(row[k]) for row in paid]
        size = max((abs(x) for x in numbers if x is not None), default=0.0)
        form = ".3f" if size == 0 or 0.01 <= size < 1e5 else ".3g"
        out.append(["" if x is None else f"{x + 0.0 if abs(x) > 1e-12 * size else 0.0:{form}}" for x in numbers])
    return out


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " or " + parts[-1]
