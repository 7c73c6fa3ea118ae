"""Proof files: what is claimed is what the float checks find, the verifier needs nothing but Python, and files that are
changed are refused or still true."""

import copy
import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from support.changed_proofs import refused_and_proved
from support.games import random_game

import emalign_jax as em
from emalign_jax.exact.proofs import files, verify

pytestmark = pytest.mark.host_only

TIES = "agents", "lowest", "highest", "uniform"
FITS = ("simplex", "none"), ("cone", "constant", "l2"), ("simplex", "per_state", "l2")


def profile(game, kind, rng):
    """Schemes of a game: of monopolists who sit on ties of the user, random ones, revelation and silence."""
    XB, K = game.prior.shape[-2], game.agents
    if kind == "monopolists":
        return np.asarray(em.solve(game, em.Selection(), em.RationalUser(), start="monopolist", verify=False).schemes)
    if kind == "random":
        return rng.dirichlet(np.ones(XB), (K, XB))
    return np.stack([np.eye(XB) if kind == "revelation" else np.eye(XB)[np.zeros(XB, int)]] * K)


def proof_of(game, schemes, protocol=None, user=None, **more):
    return files.completed(files.draft(game, schemes, protocol, user, **{"fits": (), **more}))


def claim_of(document, kind):
    (found,) = [claim for claim in document["claims"] if claim["kind"] == kind]
    return found


def lines(document):
    return verify.verify(json.dumps(files.signed(document)))


@pytest.mark.slow
@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("compared", [None, 1, 2])
def test_gains_are_those_of_the_certificate(ties, compared):
    """Two routes: the checks of `certify` in float64, and multipliers in rational arithmetic."""
    rng = np.random.default_rng(0)
    user = em.RationalUser(ties=ties)
    protocol = em.Selection() if compared is None else em.Comparison(compared)
    for seed, kind in enumerate(("monopolists", "random", "revelation", "silence")):
        game = random_game(seed, K=2 if compared is None else 3, XA=1 + seed % 2)
        schemes = profile(game, kind, rng)
        document = proof_of(game, schemes, protocol, user, claims=["gains"])
        assert len(lines(document)) == 1
        proved = np.array([float(Fraction(gain)) for gain in claim_of(document, "gains")["at_most"]])
        found = em.certify(game, schemes, protocol, user)
        np.testing.assert_array_less(found.gain_lower, proved + 1e-8)  # LPs are solved to 1e-9.
        # The proof contains what the tie tolerance of 1e-7 is worth; the certificate neglects it up to 1e-6.
        np.testing.assert_allclose(proved, found.gain_upper, atol=3e-6)


@pytest.mark.parametrize("XA", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_bounds_of_the_user_value(XA):
    rng = np.random.default_rng(1)
    for seed in range(3):
        game = random_game(10 + seed, K=3, XA=XA, shared=seed)
        schemes = profile(game, "random", rng)
        document = proof_of(game, schemes)
        lines(document)
        certificate, worst = em.certify(game, schemes, em.Selection(), em.RationalUser()), em.worst_case(game)
        least = {kind: float(Fraction(claim_of(document, kind)["at_least"])) for kind in files.BOUNDS}
        assert least["guarantee"] == pytest.approx(float(certificate.guarantee), abs=1e-6)
        assert least["worst_case"] == pytest.approx(min(float(worst), float(certificate.full_information)), abs=1e-6)
        cover = float(certificate.full_information - em.coverage(game).slack)
        assert least["coverage"] == pytest.approx(cover, abs=1e-6)
        stable = em.stability(game)
        assert least["equilibrium_set"] == pytest.approx(float(stable.worst), abs=1e-6)
        assert least["equilibrium_set"] <= float(stable.worst) + 1e-9


@pytest.mark.parametrize("weights", ["simplex", "cone"])
@pytest.mark.parametrize("offset", ["none", "constant", "per_state"])
@pytest.mark.parametrize("norm", ["sup", "l2"])
def test_alignment(weights, offset, norm):
    for seed in range(3):
        game = random_game(20 + seed, K=3)
        if seed == 2:  # Opposite agents: the dual on the cone must be orthogonal to them exactly.
            own = np.asarray(game.agent_utilities)
            game = em.Game(game.prior, game.user_utility, np.stack([own[0], -own[0], own[1]]))
        document = proof_of(game, None, claims=["alignment"], fits=[(weights, offset, norm)])
        lines(document)
        claim = claim_of(document, "alignment")
        rule = {"weights": weights, "offset": offset, "norm": norm}
        found = float(em.align(game.user_utility, game.agent_utilities, **rule).error)
        assert float(Fraction(claim["at_most"])) == pytest.approx(found, abs=1e-8)
        assert float(Fraction(claim["at_least"])) == pytest.approx(found, abs=1e-6)
        claim["norm"] = "sup" if norm == "l2" else "l2"  # The error is another one.
        with pytest.raises(verify.Unproved):
            lines(document)


def test_a_game_that_is_known():
    """Kamenica and Gentzkow's prosecutor; a prosecutor against a defender, whose equilibria all reveal the outcome."""
    game = em.catalog.prosecutor_against_defender()
    document = proof_of(game, None)
    lines(document)
    assert float(Fraction(claim_of(document, "equilibrium_set")["at_least"])) == pytest.approx(1, abs=1e-6)
    judge = em.catalog.judge(prior=0.3)
    best = np.array([[[1.0, 0.0], [3 / 7, 4 / 7]]])[:, ::-1]
    best = em.best_response(judge, best, 0, em.Selection(), em.RationalUser()).scheme[None]
    claim = claim_of(proof_of(judge, best, claims=["gains"]), "gains")
    assert float(Fraction(claim["at_most"][0])) < 1e-6


def test_the_verifier_needs_only_python(tmp_path):
    """Alone in a folder, isolated, without site-packages; an absent and a changed file are named, with exit code 1."""
    game = random_game(3, K=2)
    path = tmp_path / "proof.json"
    said = em.write_proof(path, game, profile(game, "random", np.random.default_rng(2)))
    assert em.verify_proof(path) == said
    assert len(said) == 7
    script = tmp_path / "alone" / "verify.py"
    script.parent.mkdir()
    script.write_bytes(Path(verify.__file__).read_bytes())

    def run(*paths):
        command = [sys.executable, "-I", "-S", str(script), *map(str, paths)]
        return subprocess.run(command, capture_output=True, text=True, cwd=script.parent, env={}, check=False)

    done = run(path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"{path}: proved: {line}" for line in said]
    changed = tmp_path / "changed.json"
    changed.write_text(path.read_text().replace('"emalign_proof":1', '"emalign_proof":2'))
    done = run(path, tmp_path / "absent.json", changed)
    assert done.returncode == 1
    assert done.stderr == ""
    assert done.stdout.count("NOT PROVED") == 2
    done = run()
    assert (done.returncode, "python verify.py FILE..." in done.stdout) == (1, True)
    with pytest.raises(ValueError, match="not a proof file of this version"):
        em.verify_proof(changed)
    imports = [line.split()[1] for line in script.read_text().splitlines() if line.startswith(("import ", "from "))]
    assert set(imports) <= sys.stdlib_module_names
    assert len(script.read_text().splitlines()) < 300


def tightened(document):
    """Each claim made stronger by 1e-7 of its size, or by 1e-7 if it is less than 1."""
    for k, claim in enumerate(document["claims"]):
        for name, sign in (("at_most", -1), ("at_least", 1)):
            if name not in claim:
                continue
            many = claim[name] if isinstance(claim[name], list) else [claim[name]]
            for i in range(len(many)):
                changed = copy.deepcopy(document)
                value = Fraction(many[i])
                value += sign * max(abs(value), Fraction(1, 1)) * Fraction(1, 10**7)
                if isinstance(claim[name], list):
                    changed["claims"][k][name][i] = str(value)
                else:
                    changed["claims"][k][name] = str(value)
                changed["claims"] = [changed["claims"][k]]
                yield f"{claim['kind']} {name}", changed


def refused_of_tightened(games):
    """How many files, of which one claim was made stronger, are refused; all must be."""
    rng, refused = np.random.default_rng(3), 0
    for seed in range(games):
        game = random_game(30 + seed, K=2 + seed % 2, XA=1 + seed % 2)
        document = proof_of(game, profile(game, "monopolists" if seed % 2 else "random", rng), fits=FITS)
        for _, changed in tightened(document):
            with pytest.raises(verify.Unproved):
                lines(changed)
            refused += 1
    return refused


@pytest.mark.slow
def test_claims_that_are_tightened_are_refused():
    assert refused_of_tightened(4) > 20


@pytest.mark.nightly
def test_a_thousand_claims_that_are_tightened_are_refused():
    assert refused_of_tightened(160) >= 1000


def mutations(document, rng):
    """A multiplier, a weight, a utility or a probability changed, one at a time."""
    places = []

    def walk(node, path):
        if isinstance(node, str):
            if not {
                "rule",
                "kind",
                "at_most",
                "at_least",
                "values",
                "digest",
                "weights_kind",
                "offset_kind",
                "norm",
            } & set(path):
                places.append(path)
        elif isinstance(node, dict | list):
            for name, each in node.items() if isinstance(node, dict) else enumerate(node):
                walk(each, (*path, name))

    walk(document, ())
    while True:
        path = places[rng.integers(len(places))]
        changed = copy.deepcopy(document)
        node = changed
        for name in path[:-1]:
            node = node[name]
        value = Fraction(node[path[-1]])
        step = Fraction(int(rng.integers(1, 1000)), 1000) * (1 if rng.random() < 0.5 else -1)
        new = value * (1 + step) if rng.random() < 0.5 else value + step
        if new != value:
            node[path[-1]] = str(new)
            yield path, changed


def is_true(document):
    """Whether the claims of a document hold for its game, by the float routes of the package, to 1e-6."""
    numbers = {name: np.array(document["game"][name]) for name in ("prior", "user", "agents")}
    arrays = [np.vectorize(lambda x: float(Fraction(x)))(numbers[name]) for name in ("prior", "user", "agents")]
    arrays[0] /= arrays[0].sum()
    game = em.Game(*arrays)
    for claim in document["claims"]:
        least = float(Fraction(claim["at_least"])) if "at_least" in claim else None
        if document["schemes"]:
            schemes = np.vectorize(lambda x: float(Fraction(x)))(np.array(document["schemes"]))
            schemes /= schemes.sum(-1, keepdims=True)
            found = em.certify(game, schemes, em.Selection(), em.RationalUser())
        if claim["kind"] == "gains":
            if (found.gain_lower > np.array([float(Fraction(x)) for x in claim["at_most"]]) + 1e-6).any():
                return False
        elif claim["kind"] == "guarantee" and float(found.guarantee) < least - 1e-6:
            return False
        elif claim["kind"] == "worst_case":
            gains = [float(Fraction(x)) for x in claim["gains"]]
            if min(float(em.worst_case(game, gains)), float(em.stability(game).full_information)) < least - 1e-6:
                return False
        elif claim["kind"] == "alignment":
            rule = {"weights": claim["weights_kind"], "offset": claim["offset_kind"], "norm": claim["norm"]}
            error = float(em.align(game.user_utility, game.agent_utilities, **rule).error)
            if not least - 1e-6 <= error <= float(Fraction(claim["at_most"])) + 1e-6:
                return False
        elif claim["kind"] == "equilibrium_set" and float(em.stability(game).worst) < least - 1e-6:
            return False
    return True


def changed_files(count, seed):
    """Changed files, which their digest refuses."""
    rng = np.random.default_rng(seed)
    for number in range(count // 25):
        game = random_game([seed, number], K=2, XA=1 + number % 2)
        document = proof_of(game, profile(game, "random" if number % 2 else "monopolists", rng), fits=FITS)
        document["claims"] = [claim for claim in document["claims"] if claim["kind"] != "coverage"]
        document = files.signed(document)
        for _, (path, changed) in zip(range(25), mutations(document, rng), strict=False):
            with pytest.raises(verify.Unproved, match="its digest differs"):
                verify.verify(json.dumps(changed))
            yield path, changed


def attack(count, seed):
    """With a new digest, what is still proved must be true of the changed game."""
    return refused_and_proved(changed_files(count, seed), lines, is_true)


@pytest.mark.slow
def test_no_changed_file_proves_what_is_not_true():
    refused, _ = attack(100, 5)
    assert refused > 50


@pytest.mark.nightly
def test_no_changed_file_of_a_thousand_proves_what_is_not_true(capsys):
    refused, proved = attack(1000, 6)
    with capsys.disabled():
        print(
            f"\n1,000 changed files: all refused; with new digests {refused} refused, {proved} still proved, and true"
        )
    assert refused > 500


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["game"]["prior"][0][0].__setitem__(0, "-1/9"), "no distribution"),
        (lambda d: d["game"]["prior"][0][0].__setitem__(0, "0.1"), "expected a fraction"),
        (lambda d: d["game"]["user"].pop(), "items|malformed"),
        (lambda d: d["game"]["rule"].update(compared=True), "rule"),
        (lambda d: d["game"]["rule"].update(ties="against"), "rule"),
        (lambda d: d["schemes"][0].pop(), "items"),
        (lambda d: d["claims"].clear(), "or empty"),
        (lambda d: d["claims"][0].update(kind="everything"), "malformed"),
        (lambda d: claim_of(d, "gains")["evidence"].pop(), "malformed"),
        (lambda d: claim_of(d, "gains")["evidence"][0].__setitem__(0, None), "malformed"),
        (lambda d: claim_of(d, "worst_case")["weights"].__setitem__(0, "-1"), "negative"),
        (lambda d: claim_of(d, "worst_case")["gains"].__setitem__(0, "-1"), "negative"),
        (lambda d: claim_of(d, "worst_case")["obedience"].append([[0, 0], 1, "-1"]), "negative"),
        (lambda d: claim_of(d, "equilibrium_set")["distributions"][0].pop(), "malformed"),
        (lambda d: d["game"]["rule"].update(tie_tolerance="1"), "rule"),
        (lambda d: claim_of(d, "equilibrium_set")["values"].pop(0), "gap|malformed"),
        (lambda d: claim_of(d, "equilibrium_set")["distributions"][0][0].pop(), "no distribution"),
        (lambda d: claim_of(d, "equilibrium_set")["evidence"].pop(), "malformed"),
    ],
)
def test_damaged_files_are_refused(change, words):
    document = proof_of(random_game(7, K=2), profile(random_game(7, K=2), "revelation", None))
    lines(document)
    change(document)
    with pytest.raises(verify.Unproved, match=words):
        lines(document)


def test_a_random_agent_of_two_does_not_cover_the_user():
    """One agent wants what the user wants, the other says nothing: an equilibrium where the user meets one at random,
    worth .75, although each agent's weight covers the user's value of 1."""
    game = em.Game(np.eye(2)[None] / 2, np.eye(2), np.stack([np.eye(2), np.zeros((2, 2))]))
    schemes = np.stack([np.eye(2), np.full((2, 2), 0.5)])
    document = proof_of(game, schemes, em.Comparison(1))
    assert [claim["kind"] for claim in document["claims"]] == ["gains"]
    assert lines(document)[0] == "gains: user value 0.75; no agent gains more than 0 by deviating"
    document["claims"] = proof_of(game, None, claims=["coverage"])["claims"]
    with pytest.raises(verify.Unproved, match="full revelation need not be heard"):
        lines(document)


def test_what_is_said_is_rounded_to_the_true_side():
    assert (verify.said(Fraction(2, 3)), verify.said(Fraction(2, 3), up=True)) == ("0.666666666", "0.666666667")
    assert (verify.said(Fraction(1, 8)), verify.said(Fraction(-1, 3))) == ("0.125", "-0.333333334")
    game = random_game(7, K=2)
    (said,) = lines(proof_of(game, None, claims=["worst_case"], gains=[0, 0.5]))
    assert "profiles with gains of at most 0, 0.5 are worth" in said


def test_a_key_that_stands_twice_is_refused():
    document = proof_of(random_game(7, K=2), None, claims=["coverage"])
    verify.verify(json.dumps(document))
    words = json.dumps(document | files.signed(document | {"game": None}) | {"game": document["game"]})
    with pytest.raises(verify.Unproved, match="malformed"):
        verify.verify(words.replace('"game": {', '"game": {"user": [["0"]], ', 1))


def test_the_equilibrium_set_is_that_of_ties_for_the_agents():
    document = proof_of(em.catalog.prosecutor_against_defender(), None, claims=["equilibrium_set"])
    document["game"]["rule"]["ties"] = "lowest"
    with pytest.raises(verify.Unproved, match="ties for agents"):
        lines(document)


@pytest.mark.parametrize("ties", ["agents", "lowest", "highest"])
def test_ties_of_values_and_of_actions_cost_a_bound_little(ties):
    """All three agents reveal; two actions are the same to the user and not to the agents."""
    user, agents = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), np.zeros((3, 3, 2))
    agents[:, 1], agents[1, 2, 1] = 1.0, 5.0
    game = em.Game(np.array([[[0.5, 0], [0, 0.5]]]), user, agents)
    schemes, user = np.stack([np.eye(2)] * 3), em.RationalUser(ties=ties)
    claim = claim_of(proof_of(game, schemes, user=user, claims=["gains"]), "gains")
    proved = [float(Fraction(gain)) for gain in claim["at_most"]]
    np.testing.assert_allclose(proved, em.certify(game, schemes, em.Selection(), user).gain_upper, atol=1e-6)


def test_a_single_action():
    game = em.Game(np.full((1, 2, 1), 0.5), np.ones((1, 1)), np.ones((2, 1, 1)))
    assert len(lines(proof_of(game, np.stack([np.eye(2)] * 2)))) == 5


def test_what_has_no_proof():
    game = random_game(1, K=2)
    schemes = profile(game, "silence", None)
    with pytest.raises(ValueError, match="proofs: only Selection and Comparison"):
        proof_of(game, schemes, em.Pooled())
    with pytest.raises(ValueError, match="proofs: only Selection and Comparison"):
        proof_of(game, schemes, em.Selection(), em.QuantalUser(5.0))
    with pytest.raises(ValueError, match="claims: 'equilibrium_set' does not apply here"):
        proof_of(game, schemes, em.Comparison(1), claims=["equilibrium_set"])
    for none in ({"claims": []}, {"claims": ["alignment"], "fits": []}):
        with pytest.raises(ValueError, match="claims, fits: expected at least one claim"):
            proof_of(game, schemes, **none)
    with pytest.raises(ValueError, match="game: expected one game, got a batch"):
        proof_of(em.random_games(__import__("jax").random.key(0), 2), None)


def many(games_each):
    """Proofs of random games of all families, tie rules, XA = 1 and 2, Selection and Comparison; how many."""
    import jax

    count = 0
    for family in em.FAMILIES:
        for number, ties in enumerate(TIES):
            for XA in (1, 2):
                key = jax.random.key(100 * number + XA)
                agents = 1 + (number + XA) % 4
                games = em.random_games(key, games_each, family=family, agents=agents, user_features=XA)
                user = em.RationalUser(ties=ties)
                protocol = em.Comparison(2) if agents > 2 and XA == 2 else em.Selection()
                found = em.solve(games, protocol, user, key=key, verify=False)
                for k in range(games_each):
                    lines(proof_of(games[k], np.asarray(found.schemes[k]), protocol, user))
                    count += 1
    return count


@pytest.mark.slow
def test_every_family_and_tie_rule():
    assert many(1) == 8 * len(em.FAMILIES)


@pytest.mark.nightly
def test_ten_thousand_files():
    assert many(-(-10_000 // (8 * len(em.FAMILIES)))) >= 10_000


def test_any_changed_character_is_refused():
    """A digit, a letter, a sign: whatever is damaged, the file is refused or says the same."""
    words = json.dumps(proof_of(random_game(7, K=2), profile(random_game(7, K=2), "revelation", None)))
    rng = np.random.default_rng(8)
    for place in rng.integers(len(words), size=300).tolist():
        changed = words[:place] + chr(int(rng.integers(33, 127))) + words[place + 1 :]
        try:
            verify.verify(changed)
        except verify.Unproved:
            continue
        assert json.loads(changed) == json.loads(words)


def test_the_digest_proves_nothing():
    """A file with the right digest, whose claim is not true, is refused."""
    document = proof_of(random_game(7, K=2), None, claims=["worst_case"])
    claim_of(document, "worst_case")["at_least"] = "1000"
    with pytest.raises(verify.Unproved, match="the evidence proves"):
        verify.verify(json.dumps(files.signed(document)))
