"""Proof files: what is claimed of a game, with the evidence that `verify.py` and `verify_quantal.py` check (section 12
of docs/model.md)."""

from __future__ import annotations

import hashlib
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from emalign_jax.exact.alignment.fits import align
from emalign_jax.exact.alignment.residuals import Rule, rule_of
from emalign_jax.exact.checks.base import check_for
from emalign_jax.exact.proofs import evidence_quantal, verify, verify_quantal
from emalign_jax.exact.proofs.equilibrium_values import Intervals
from emalign_jax.exact.proofs.evidence import ObedienceEvidence, fit, least_value, text
from emalign_jax.games.game import Game, faults, reduce_game
from emalign_jax.games.units import VALUE_TIE
from emalign_jax.internal.arguments import choice, power, shown
from emalign_jax.internal.files import atomic
from emalign_jax.internal.validation import as_float_array, checked, on_host
from emalign_jax.protocols import Selection
from emalign_jax.protocols.schemes import check_schemes
from emalign_jax.protocols.standard_units import standard_form
from emalign_jax.users.rational import RationalUser

# The claims that bound the user's value from below.
BOUNDS = "guarantee", "worst_case", "coverage", "equilibrium_set"
# Recommendations, times states, of the largest game that the verifier takes.
MOST = 100_000
# The fits of which proofs are written by default: weights and offset.
FITS = ("simplex", "none"), ("cone", "per_state")


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
    fits: Any = FITS,
) -> list[str]:
    """Write a file that proves claims about one game to anybody who has Python (section 12 of docs/model.md).

    Args:
        path: the file, JSON; replaced if it is there.
        game: one game, without batch axes.
        schemes: [K, XB, M] a profile, for the claims "gains" and "guarantee".
        protocol: `Selection` (the default) or `Comparison`, at temperature 0; `Pooled` with a quantal user.
        user: `RationalUser` with any tie rule (the default: ties="agents"); `QuantalUser` in `Pooled`, of which "gains"
            is the one claim, and which needs python-flint (the extra `proofs`).
        claims: names out of "gains" (no agent gains more than so much by deviating), "guarantee" (of this profile),
            "worst_case" (of all profiles with gains of at most `gains`), "coverage", "alignment" (how well the agents'
            utilities fit the user's), "equilibrium_set" (no pure equilibrium is worth less). None: all that apply.
        gains: a number or [K], for "worst_case".
        fits: (weights, offset) or (weights, offset, norm) of each fit for "alignment", in the sup norm if none is
            given; see `align`.

    Returns:
        What is proved, a line a claim, as the verifier says it.

    Raises:
        ValueError: names the argument and the rule: other protocols and users, a batch, a game that is too large for
            the verifier, a quantal user where too many cells of beliefs would be needed or python-flint is missing.

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
    words, said = proved(draft(game, schemes, protocol, user, claims=claims, gains=gains, fits=fits))
    with atomic(Path(path)) as temporary:
        temporary.write_text(words, "utf-8")
    return said


def verify_proof(path: str | Path) -> list[str]:
    """Check a proof file in rational arithmetic (of a quantal user: interval arithmetic), as `emalign verify` does.

    Args:
        path: a file that `write_proof` or `--proof` wrote.

    Returns:
        What is proved, a line a claim.

    Raises:
        ValueError: says which claim is not proved, what is malformed, or that python-flint is missing.
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
        return verify_quantal.verify(Path(path).read_text("utf-8"))
    except (verify.Unproved, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None


def draft(game: Game, schemes=None, protocol=None, user=None, *, claims=None, gains=0.0, fits=FITS) -> dict[str, Any]:
    """The document of `write_proof` without evidence: claims say only what is asked for."""
    protocol = Selection() if protocol is None else protocol
    user = RationalUser() if user is None else user
    game, protocol, user = on_host(game=game, protocol=protocol, user=user)
    check_kind(protocol, user)
    if game.batch_shape:
        raise ValueError(f"game: expected one game, got a batch {list(game.batch_shape)}: take game[k]")
    if fault := str(faults(game)):
        raise ValueError(fault)
    smooth = user.is_smooth
    if not smooth:
        check_size(game)
    if schemes is not None:
        (schemes,) = on_host(schemes=schemes)
        schemes = np.asarray(check_schemes(game, schemes, protocol), float)
        if schemes.ndim > 3 or not np.isfinite(schemes).all():
            raise ValueError(f"schemes: expected finite [K, XB, M] for one game, got {list(schemes.shape)}")
        if smooth:
            _check_quantal_size(game, schemes.shape[-1])
    compared = getattr(protocol, "compared", game.agents)
    if smooth and schemes is None:
        raise ValueError("schemes: expected a profile: proofs about a quantal user are of the gains in a profile")
    applies = {
        "gains": schemes is not None,
        "guarantee": schemes is not None and compared == game.agents,
        "worst_case": compared == game.agents,
        "coverage": compared == game.agents,
        "alignment": True,
        "equilibrium_set": compared == game.agents >= 2 and not smooth and user.ties == "agents",
    }
    applies = {name: can and (name == "gains" or not smooth) for name, can in applies.items()}
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
    asked: Any = fits if isinstance(fits, list | tuple) else [None]
    if not all(isinstance(kinds, list | tuple) and len(kinds) in (2, 3) for kinds in asked):
        raise ValueError(f"fits: expected (weights, offset) or (weights, offset, norm) of each, got {shown(fits)}")
    rules = [rule_of(*kinds[:2], *(kinds[2:] or ("sup",))) for kinds in asked]
    more: dict[str, list[dict[str, Any]]] = {
        "worst_case": [{"gains": fractions(np.broadcast_to(allowed, game.agents))}],
        "alignment": [{"weights_kind": w, "offset_kind": offset, "norm": norm} for w, offset, norm in rules],
    }
    listed = [{"kind": name, **one} for name in wanted for one in more.get(name, [{}])]
    if not listed:
        raise ValueError("claims, fits: expected at least one claim, got none")
    numbers = {name: np.asarray(getattr(game, name), float) for name in ("prior", "user_utility", "agent_utilities")}
    return {
        "emalign_proof": 1,
        "game": {
            "prior": fractions(numbers["prior"]),
            "user": fractions(numbers["user_utility"]),
            "agents": fractions(numbers["agent_utilities"]),
            "rule": _quantal_rule(user) if smooth else _rational_rule(game, protocol, user, compared),
        },
        "schemes": None if schemes is None else fractions(schemes),
        "claims": listed,
    }  # fmt: skip


def proved(draft: dict[str, Any]) -> tuple[str, list[str]]:
    """The text of a proof file, and what it proves."""
    words = json.dumps(completed(draft), separators=(",", ":"))
    return words, verify_quantal.verify(words)  # Nothing is written that is not proved.


def completed(draft: dict[str, Any]) -> dict[str, Any]:
    """A draft with evidence, bounds and digest."""
    make: Any = evidence_quantal.Writer if "precision" in draft["game"]["rule"] else _Writer
    try:
        writer = make(draft)
    except verify.Unproved as error:
        raise ValueError(f"proofs: {error}") from None
    claims = [{**claim, **getattr(writer, claim["kind"])(claim)} for claim in draft["claims"]]
    return signed({**draft, "claims": claims})


def signed(document: dict[str, Any]) -> dict[str, Any]:
    """A document with the digest of what it holds."""
    content = {key: value for key, value in document.items() if key != "digest"}
    return content | {"digest": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}


def check_size(game: Game) -> None:
    """Raise `ValueError` for a game with a rational user that the verifier refuses."""
    size = power(game.actions, game.user_features) * game.agent_features
    if size > MOST:
        raise ValueError(f"proofs: A^XA * XB = {size}, the limit is {MOST}: the game is too large to check")


def _check_quantal_size(game: Game, messages: int) -> None:
    size = power(messages, game.agents - 1) * game.user_features * game.actions * game.agent_features
    if size > verify_quantal.MOST:
        raise ValueError(
            f"proofs: M^(K-1) * XA * A * XB = {size}, the limit with a quantal user is {verify_quantal.MOST}: "
            "the game is too large to check; take fewer agents or messages"
        )


def _rational_rule(game: Game, protocol, user, compared: int) -> dict[str, Any]:
    unit = float(standard_form(reduce_game(game, np), protocol, user).user_unit)
    return {
        "ties": user.ties, "tie_tolerance": fractions(float(user.tolerance)), "value_tie": fractions(VALUE_TIE * unit),
        "compared": compared,
    }  # fmt: skip


def _quantal_rule(user) -> dict[str, Any]:
    if np.ndim(user.precision):
        raise ValueError(f"user: expected one precision for one game, got {list(np.shape(user.precision))}")
    return {"precision": fractions(float(user.precision))}


def check_kind(protocol, user) -> None:
    """Raise `ValueError` for a protocol or a user that the verifiers do not know, or where python-flint is missing."""
    known = vars(check_for(protocol, user)).get("has_proofs", False) and user.plain is user
    if not known or not getattr(protocol, "sharp", True):
        raise ValueError(
            "proofs: only Selection and Comparison at temperature 0 with RationalUser, and Pooled with QuantalUser, "
            f"have proof files, got {protocol.title} and {user.title}"
        )
    if user.is_smooth and verify_quantal.flint is None:
        raise ValueError(f"proofs: {verify_quantal.INSTALL}")


class _Writer:
    """Finds evidence for one game; claims are as strong as the verifier finds them proved."""

    def __init__(self, draft: dict[str, Any]):
        self.game: Any = verify.Game(draft["game"], draft["schemes"])
        self.profile = self.game.profile

    def gains(self, _) -> dict[str, Any]:
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

    def guarantee(self, _) -> dict[str, Any]:
        game, profile = self.game, self.profile
        assert profile is not None
        found = least_value(game, profile.shortfall, True)
        bound = min(game.least(found["weights"], found["obedience"], profile.shortfall), game.full)
        return {**found, "at_least": text(bound)}

    def worst_case(self, asked) -> dict[str, Any]:
        return self._of_all([Fraction(gain) for gain in asked["gains"]], True)

    def coverage(self, _) -> dict[str, Any]:
        return self._of_all([Fraction(0)] * self.game.K, False)

    def _of_all(self, gains: list[Fraction], obedient: bool) -> dict[str, Any]:
        """Of all profiles with such gains."""
        game = self.game
        found = least_value(game, gains, obedient)
        bound = game.least(found["weights"], found["obedience"], gains)
        return {"gains": text(gains), **found, "at_least": text(min(bound, game.full - 2 * game.value_tie))}

    def alignment(self, asked) -> dict[str, Any]:
        rule = Rule(asked["weights_kind"], asked["offset_kind"], asked["norm"])
        user, *agents = [[list(map(float, row)) for row in own] for own in (self.game.u, *self.game.U)]
        return fit(self.game, rule, align(user, agents, **rule._asdict()))

    def equilibrium_set(self, _) -> dict[str, Any]:
        return Intervals(self.game).claim()
