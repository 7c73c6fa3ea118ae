"""Proof files: what is claimed of a game, with the evidence that `verify.py` checks (section 12 of docs/model.md)."""

from __future__ import annotations

import itertools
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from emalign_jax.exact.alignment.fits import align
from emalign_jax.exact.checks.base import check_for
from emalign_jax.exact.guarantees.equilibrium_set import stability
from emalign_jax.exact.proofs import verify
from emalign_jax.exact.proofs.evidence import ObedienceEvidence, fit, least_value, text
from emalign_jax.games.game import Game, faults, reduce_game
from emalign_jax.games.units import NEGLIGIBLE_INFORMATION_VALUE, VALUE_TIE
from emalign_jax.internal.arguments import choice, shown
from emalign_jax.internal.files import atomic
from emalign_jax.internal.validation import as_float_array, checked, on_host
from emalign_jax.protocols import Selection
from emalign_jax.protocols.schemes import check_schemes
from emalign_jax.protocols.standard_units import standard_form
from emalign_jax.users.rational import RationalUser

# The claims that bound the user's value from below.
BOUNDS = "guarantee", "worst_case", "coverage", "equilibrium_set"
# How far below the worst equilibrium the claim lies, as shares of V_full - V_none: the first one that is proved.
ROOM = (1e-9, 1e-8, 1e-7, 1e-6, 1e-5)


def fractions(array: Any) -> Any:
    """Every float as the fraction that it is, as text, in nested lists."""
    if isinstance(array, np.ndarray):
        return fractions(array.tolist())
    return [fractions(each) for each in array] if isinstance(array, list) else str(Fraction(array))


def write_proof(
    path: str | Path,
    game: Game,
    schemes: Any = None,
    protocol: Any = None,
    user: Any = None,
    *,
    claims: Any = None,
    gains: Any = 0.0,
    fits: Any = (("simplex", "none"), ("cone", "per_state")),
) -> list[str]:
    """Write a file that proves claims about one game to anybody who has Python (section 12 of docs/model.md).

    Args:
        path: the file, JSON; replaced if it is there.
        game: one game, without batch axes.
        schemes: [K, XB, M] a profile, for the claims "gains" and "guarantee".
        protocol: `Selection` (the default) or `Comparison`, at temperature 0.
        user: `RationalUser` with any tie rule (the default: ties="agents").
        claims: names out of "gains" (no agent gains more than so much by deviating), "guarantee" (of this profile),
            "worst_case" (of all profiles with gains of at most `gains`), "coverage", "alignment" (how well the agents'
            utilities fit the user's), "equilibrium_set" (no pure equilibrium is worth less). None: all that apply.
        gains: a number or [K], for "worst_case".
        fits: (weights, offset) of each fit for "alignment", in the sup norm; see `align`.

    Returns:
        What is proved, a line a claim, as the verifier says it.

    Raises:
        ValueError: names the argument and the rule: other protocols and users, a batch, a game that is too large for
            the verifier.

    Example:
        >>> import tempfile
        >>> judge = em.catalog.judge(prior=0.3)
        >>> alone = em.solve(judge, em.Selection(), em.RationalUser(), start="monopolist")
        >>> path = tempfile.mkdtemp() + "/judge.json"
        >>> said = em.write_proof(path, judge, alone.schemes)
        >>> said[0].split(";")[0]
        'gains: user value 0.7'

    Source: section 12 of docs/model.md.
    """
    (path,) = checked(path=path)
    protocol = Selection() if protocol is None else protocol
    user = RationalUser() if user is None else user
    document = proof(game, schemes, protocol, user, claims=claims, gains=gains, fits=fits)
    words = json.dumps(document, separators=(",", ":"))
    said = verify.verify(words)  # Nothing is written that is not proved.
    with atomic(Path(path)) as temporary:
        temporary.write_text(words, "utf-8")
    return said


def verify_proof(path: str | Path) -> list[str]:
    """Check a proof file in rational arithmetic, by the code of `emalign verify`.

    Args:
        path: a file that `write_proof` or `--proof` wrote.

    Returns:
        What is proved, a line a claim.

    Raises:
        ValueError: says which claim is not proved, or what is malformed.
        OSError: where the file cannot be read.

    Example:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/opposed.json"
        >>> _ = em.write_proof(path, em.catalog.prosecutor_against_defender(), claims=["coverage"])
        >>> [line.split(":")[0] for line in em.verify_proof(path)]
        ['coverage']

    Source: section 12 of docs/model.md.
    """
    (path,) = checked(path=path)
    try:
        return verify.verify(Path(path).read_text("utf-8"))
    except (verify.Unproved, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None


def proof(game: Game, schemes, protocol, user, *, claims=None, gains=0.0, fits=()) -> dict[str, Any]:
    """The document of `write_proof`."""
    game, protocol, user = on_host(game=game, protocol=protocol, user=user)
    check_kind(protocol, user)
    if game.batch_shape:
        raise ValueError(f"game: expected one game, got a batch {list(game.batch_shape)}: take game[k]")
    if fault := str(faults(game)):
        raise ValueError(fault)
    if schemes is not None:
        (schemes,) = on_host(schemes=schemes)
        schemes = np.asarray(check_schemes(game, schemes, protocol), float)
        if schemes.ndim > 3 or not np.isfinite(schemes).all():
            raise ValueError(f"schemes: expected finite [K, XB, M] for one game, got {list(schemes.shape)}")
    compared = getattr(protocol, "compared", game.agents)
    applies = {
        "gains": schemes is not None,
        "guarantee": schemes is not None and compared == game.agents,
        "worst_case": compared == game.agents,
        "coverage": compared == game.agents,
        "alignment": True,
        "equilibrium_set": compared == game.agents >= 2 and user.ties == "agents",
    }
    if not isinstance(claims, list | tuple | None):
        raise ValueError(f"claims: expected a list of words, got {shown(claims)}")
    wanted = [name for name, can in applies.items() if can] if claims is None else claims
    wanted = [choice("claims", name, applies) for name in wanted]
    if bad := [name for name in wanted if not applies.get(name)]:
        raise ValueError(
            f"claims: {bad[0]!r} does not apply here; those that do: {', '.join(filter(applies.get, applies))}"
        )
    allowed = np.asarray(as_float_array("gains", gains), float)
    if allowed.shape not in ((), (game.agents,)) or not (np.isfinite(allowed) & (allowed >= 0)).all():
        raise ValueError(f"gains: expected a finite number >= 0, or one for each of {game.agents} agents")
    pairs = fits if isinstance(fits, list | tuple) else [None]
    if not all(isinstance(kinds, list | tuple) and len(kinds) == 2 for kinds in pairs):
        raise ValueError(f"fits: expected pairs (weights, offset), got {shown(fits)}")
    unit = float(standard_form(reduce_game(game, np), protocol, user).user_unit)
    numbers = {name: np.asarray(getattr(game, name), float) for name in ("prior", "user_utility", "agent_utilities")}
    document = {
        "emalign_proof": 1,
        "game": {
            "prior": fractions(numbers["prior"]),
            "user": fractions(numbers["user_utility"]),
            "agents": fractions(numbers["agent_utilities"]),
            "rule": {
                "ties": user.ties, "tie_tolerance": fractions(float(user.tolerance)),
                "value_tie": fractions(VALUE_TIE * unit), "compared": compared,
            },
        },
        "schemes": None if schemes is None else fractions(schemes),
        "claims": [],
    }  # fmt: skip
    exact = _exact(document)
    writer = _Writer(exact)
    for name in wanted:
        if name == "worst_case":
            found = [writer.worst_case(np.broadcast_to(allowed, game.agents))]
        elif name == "alignment":
            found = [_alignment(exact, game, *kinds) for kinds in fits]
        elif name == "equilibrium_set":
            found = [writer.equilibrium_set(stability(game))]
        else:
            found = [getattr(writer, name)()]
        document["claims"] += [{"kind": name, **claim} for claim in found]
    return document


def check_kind(protocol, user) -> None:
    """Raise `ValueError` for a protocol or a user that the verifier does not know."""
    known = vars(check_for(protocol, user)).get("has_proofs", False) and user.plain is user
    if not known or not protocol.sharp:
        raise ValueError(
            "proofs: only Selection and Comparison at temperature 0 with RationalUser have proof files, got "
            f"{protocol.title} and {user.title}"
        )


def _exact(document: dict[str, Any]) -> Any:
    """The game of the verifier."""
    try:
        return verify.Game(document["game"], document["schemes"])
    except verify.Unproved as error:
        raise ValueError(f"proofs: {error}") from None


def _alignment(exact: Any, game: Game, weights: str, offset: str) -> dict[str, Any]:
    found = align(np.asarray(game.user_utility), np.asarray(game.agent_utilities), weights=weights, offset=offset)
    return fit(exact, weights, offset, found)


class _Writer:
    """Finds evidence for one game; claims are as strong as the verifier finds them proved."""

    def __init__(self, game: Any):
        self.game, self.profile = game, game.profile

    def gains(self) -> dict[str, Any]:
        game, profile = self.game, self.profile
        assert profile is not None
        lp = ObedienceEvidence(game, float(game.tolerance))
        evidence, at_most = [], []
        for i in range(game.K):
            ranks = [
                lp.bound(game.G[i], low, high) if game.chance[r] else None
                for r, (low, high) in enumerate(profile.intervals(i))
            ]
            evidence.append(ranks)
            at_most.append(profile.most(i, ranks) - profile.agents[i])
        return {"evidence": evidence, "at_most": text(at_most)}

    def guarantee(self) -> dict[str, Any]:
        game, profile = self.game, self.profile
        assert profile is not None
        found = least_value(game, profile.shortfall, True)
        bound = min(game.least(found["weights"], found["obedience"], profile.shortfall), game.full)
        return {**found, "at_least": text(bound)}

    def worst_case(self, gains) -> dict[str, Any]:
        game = self.game
        allowed = [Fraction(float(gain)) for gain in gains]
        found = least_value(game, allowed, True)
        bound = game.least(found["weights"], found["obedience"], allowed)
        at_least = min(bound, game.full - 2 * game.value_tie)
        return {"gains": text(allowed), **found, "at_least": text(at_least)}

    def coverage(self) -> dict[str, Any]:
        none = [Fraction(0)] * self.game.K
        found = least_value(self.game, none, False)
        bound = self.game.least(found["weights"], [], none)
        return {"gains": text(none), **found, "at_least": text(min(bound, self.game.full - 2 * self.game.value_tie))}

    def equilibrium_set(self, found) -> dict[str, Any]:
        """Claims the largest of several values below the worst equilibrium that is proved."""
        game, worst = self.game, Fraction(float(found.worst))
        silent = Fraction(np.nextafter(float(game.silent), -np.inf))
        values = [Fraction(float(v)) for v in np.unique(found.value)]
        together = [
            [[sum(own[x][b][a] for own in game.G) for a in range(game.A)] for b in range(game.B)] for x in range(game.X)
        ]
        lp = ObedienceEvidence(game, 0.0)
        spread = game.full - silent
        for room in ROOM if spread > NEGLIGIBLE_INFORMATION_VALUE * lp.user_size else ():
            limit = min(worst - Fraction(room) * spread, game.full)
            grid = [silent, *(v for v in values if silent < v < limit), limit]
            if limit <= silent:
                break
            claim = {
                "values": text(grid),
                "distributions": [[lp.distribution(own, value) for own in game.G] for value in grid],
                "evidence": [lp.bound(together, (a + b) / 2, (a + b) / 2) for a, b in itertools.pairwise(grid)],
                "at_least": text(limit),
            }
            try:
                verify.prove_equilibrium_set(game, claim)
                return claim
            except verify.Unproved:
                continue
        # No value above V_none is proved; no scheme is worth less than V_none.
        distributions = [[lp.distribution(own, silent) for own in game.G]]
        return {"values": text([silent]), "distributions": distributions, "evidence": [], "at_least": text(silent)}
