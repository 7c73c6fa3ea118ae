"""Proof files about quantal users: claims that are attacked by schemes, and files that are changed, which are refused
or still true."""

import copy
import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from support.beliefs import pooled_problem
from support.changed_proofs import refused_and_proved
from support.games import random_game, reduced

import emalign_jax as em
from emalign_jax.exact.proofs import evidence_quantal, files, verify, verify_quantal
from emalign_jax.lp.highs import LPFailed

pytestmark = pytest.mark.host_only

pytest.importorskip("flint")

POOLED = em.Pooled()


def proof_of(game, schemes, precision):
    return files.completed(files.draft(game, schemes, POOLED, em.QuantalUser(precision)))


def lines(document):
    return verify_quantal.verify(json.dumps(files.signed(document)))


def claimed(document):
    return np.array([float(Fraction(gain)) for gain in document["claims"][0]["at_most"]])


def random_schemes(rng, K, XB, purity=1.0):
    return rng.dirichlet(np.full(max(XB, 2), purity), (K, XB))


# Claims.


def attempts(rng, game, schemes, precision, i):
    """The most that agent i gains by schemes that are tried: random ones, some that are improved step by step, and the
    best response of the package."""
    problem = pooled_problem(reduced(game), schemes, i, em.QuantalUser(precision))
    goal = problem.goal(1.0, 0.0)

    def paid(scheme):
        return float(problem.value(scheme[problem.possible].T * problem.target, goal).sum())

    XB, now = schemes.shape[1], paid(schemes[i])
    tried = [rng.dirichlet(np.full(m, c), XB) for m in (2, 3, 6) for c in (0.05, 0.5, 2.0) for _ in range(20)]
    tried += [schemes[i], np.eye(XB), np.ones((XB, 1))]
    best = sorted(tried, key=paid)[-3:]
    found = [em.best_response(game, schemes, i, POOLED, em.QuantalUser(precision)).scheme]
    for scheme in best:
        here, step = paid(scheme), 0.3
        while step > 1e-4:
            other = (1 - step) * scheme + step * rng.dirichlet(np.full(scheme.shape[1], 0.3), XB)
            if paid(other) > here:
                scheme, here = other, paid(other)
            else:
                step *= 0.9
        found.append(scheme)
    return max(map(paid, found)) - now


def games_of(count):
    """(game, schemes, precision): random games of all families, XB = 1 to 3, found and random profiles."""
    import jax

    rng = np.random.default_rng(11)
    for number in range(count):
        family = list(em.FAMILIES)[number % len(em.FAMILIES)]
        XB, precision = 1 + number % 3, float(10.0 ** rng.uniform(np.log10(0.5), np.log10(50)))
        key = jax.random.key(number)
        sizes = {"agents": 2, "agent_features": XB, "states": 3, "actions": 3}
        game = em.random_games(key, 1, family=family, information_worth=0.0, **sizes)[0]
        if number % 2:
            schemes = random_schemes(rng, 2, XB, purity=float(rng.choice([1.0, 0.1])))
        else:
            found = em.solve(game, POOLED, em.QuantalUser(precision), key=key, verify=False)
            schemes = np.asarray(found.schemes, float)
        yield rng, game, schemes, precision


def claims_are_attacked(count):
    for rng, game, schemes, precision in games_of(count):
        document = proof_of(game, schemes, precision)
        assert lines(document)[0].startswith("gains: user value ")
        proved, certificate = claimed(document), em.certify(game, schemes, POOLED, em.QuantalUser(precision))
        ranges = np.asarray(certificate.payoff_range)
        attained = [attempts(rng, game, schemes, precision, i) for i in range(2)]
        assert (attained <= proved + 1e-12).all()
        np.testing.assert_array_less(certificate.gain_lower, proved + 1e-12)
        assert (proved <= certificate.gain_lower + 2e-2 * ranges + 1e-9).all()
        # A claim below what is attained cannot be proved, by lower limits or by lower prices.
        for i in range(2):
            low = max(attained[i], float(certificate.gain_lower[i])) - 1e-3 * max(ranges[i], 1e-9)
            changed = copy.deepcopy(document)
            changed["claims"][0]["at_most"][i] = str(Fraction(low))
            with pytest.raises(verify.Unproved, match=f"the gain of agent {i}"):
                lines(changed)
            own = changed["claims"][0]["evidence"][i]
            own["price"] = [str(Fraction(p) - Fraction(proved[i] - low)) for p in own["price"]]
            with pytest.raises(verify.Unproved):
                lines(changed)


@pytest.mark.slow
def test_claims_of_all_families_hold_against_schemes_that_are_tried():
    claims_are_attacked(2 * len(em.FAMILIES))


@pytest.mark.nightly
def test_claims_of_many_games_hold_against_schemes_that_are_tried():
    claims_are_attacked(40 * len(em.FAMILIES))


def test_the_bound_is_close():
    """Most proofs leave 1e-4 of the payoff range."""
    game = random_game(3, K=2, XB=2)
    schemes = random_schemes(np.random.default_rng(0), 2, 2)
    certificate = em.certify(game, schemes, POOLED, em.QuantalUser(5.0))
    proved = claimed(proof_of(game, schemes, 5.0))
    np.testing.assert_allclose(proved, certificate.gain_lower, atol=1.1e-4 * float(np.max(certificate.payoff_range)))


@pytest.mark.slow
def test_units_do_not_matter():
    """Utilities of a million and of a millionth, with constants added that are larger."""
    game, schemes = random_game(4, K=2, XB=2), random_schemes(np.random.default_rng(1), 2, 2)
    plain = claimed(proof_of(game, schemes, 6.0))
    u, U = np.asarray(game.user_utility), np.asarray(game.agent_utilities)
    for scale, shift in ((2.0**20, 2.0**24), (2.0**-20, 8.0)):
        other = em.Game(game.prior, scale * u, scale * U + shift)
        np.testing.assert_allclose(claimed(proof_of(other, schemes, 6.0 / scale)) / scale, plain, atol=2e-5)


@pytest.mark.slow
def test_what_is_trivial():
    """A single action, an x_B that is impossible, indifferent agents, one agent, messages that are never sent."""
    rng = np.random.default_rng(2)
    one = em.Game(np.full((1, 2, 1), 0.5), np.ones((1, 1)), np.ones((2, 1, 1)))
    assert lines(proof_of(one, np.stack([np.eye(2)] * 2), 3.0))
    game = random_game(5, K=2, XB=3)
    prior = np.asarray(game.prior) * np.array([1.0, 0.0, 1.0])[None, :, None]
    rare = em.Game(prior / prior.sum(), game.user_utility, game.agent_utilities)
    schemes = random_schemes(rng, 2, 3)
    schemes[1, :, 2], schemes[1, :, 0] = 0.0, schemes[1, :, 0] + schemes[1, :, 2]
    assert lines(proof_of(rare, schemes, 3.0))
    indifferent = em.Game(game.prior, game.user_utility, np.full((2, 3, 3), 0.3))
    assert claimed(proof_of(indifferent, schemes, 3.0)).max() < 1e-9
    alone = em.Game(game.prior, game.user_utility, np.asarray(game.agent_utilities)[:1])
    assert lines(proof_of(alone, schemes[:1], 3.0))


# Files that are changed.


@pytest.fixture(scope="module")
def document():
    game = random_game(8, K=2, XB=3)
    return proof_of(game, random_schemes(np.random.default_rng(3), 2, 3), 8.0)


@pytest.mark.slow
def test_a_tree_with_a_leaf_less_or_more_is_refused(document):
    tree = document["claims"][0]["evidence"][0]["tree"]
    leaves = [n for n, node in enumerate(tree) if node == 0]
    assert len(leaves) > 10
    for n in leaves[:: len(leaves) // 3]:
        changed = copy.deepcopy(document)
        del changed["claims"][0]["evidence"][0]["tree"][n]
        with pytest.raises(verify.Unproved):
            lines(changed)
    for node in (0, [0, 1, "1/2"]):
        changed = copy.deepcopy(document)
        changed["claims"][0]["evidence"][0]["tree"].append(node)
        with pytest.raises(verify.Unproved, match="too long"):
            lines(changed)
    changed = copy.deepcopy(document)
    changed["claims"][0]["evidence"][0]["tree"].pop()
    with pytest.raises(verify.Unproved, match="leaves beliefs out"):
        lines(changed)
    changed["claims"][0]["evidence"][0]["tree"] = [0]
    with pytest.raises(verify.Unproved, match="agent 0 may gain more on a cell"):
        lines(changed)


def test_edges_that_are_changed_are_refused(document):
    """Another edge at the first division leaves cells too wide for their bounds."""
    tree = document["claims"][0]["evidence"][0]["tree"]
    edge = tree[0][:2]
    other = next(list(e) for e in ((0, 1), (0, 2), (1, 2)) if set(e) != set(edge))
    changed = copy.deepcopy(document)
    changed["claims"][0]["evidence"][0]["tree"][0][:2] = other
    with pytest.raises(verify.Unproved, match="may gain more"):
        lines(changed)


def change(path, value):
    def at(document):
        node = document
        for name in path[:-1]:
            node = node[name]
        node[path[-1]] = value

    return at


OWN = "claims", 0, "evidence", 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change(("game", "prior", 0, 0, 0), "-1/9"), "no distribution"),
        (change(("game", "rule", "precision"), "0"), "rule"),
        (change(("game", "rule", "precision"), "5.0"), "expected a fraction"),
        (change(("game", "rule", "ties"), "agents"), "rule"),
        (change(("schemes",), None), "expected a scheme"),
        (change(("schemes", 0), [["1"]]), "items"),
        (change(("claims",), []), "or empty"),
        (change(("claims", 0, "kind"), "coverage"), "malformed"),
        (change(("claims", 0, "at_most"), ["1"]), "items"),
        (change(("claims", 0, "evidence"), []), "evidence for each agent"),
        (change((*OWN, "price"), ["1", "1"]), "items"),
        (change((*OWN, "price", 0), "-100"), "may gain more"),
        (change((*OWN, "tree"), []), "leaves beliefs out"),
        (change((*OWN, "tree", 0), False), "malformed"),
        (change((*OWN, "tree", 0), 0.0), "malformed"),
        (change((*OWN, "tree", 0), [0, 0, "1/2"]), "no edge"),
        (change((*OWN, "tree", 0), [0, 3, "1/2"]), "no edge"),
        (change((*OWN, "tree", 0), [-1, 1, "1/2"]), "no edge"),
        (change((*OWN, "tree", 0), [False, 1, "1/2"]), "no edge"),
        (change((*OWN, "tree", 0), [0, 1, "1"]), "no edge"),
        (change((*OWN, "tree", 0), [0, 1, "-1/2"]), "no edge"),
        (change((*OWN, "tree", 0), [0, 1, 0.5]), "expected a fraction"),
        (change((*OWN, "tree", 0), [0, 1]), "malformed"),
    ],
)
def test_damaged_files_are_refused(document, change, words):
    changed = copy.deepcopy(document)
    change(changed)
    with pytest.raises(verify.Unproved, match=words):
        lines(changed)


def mutated(document, rng):
    """A number of the file changed by a little or by much."""
    places = []

    def walk(node, path):
        if isinstance(node, str) and "at_most" not in path:
            places.append(path)
        elif isinstance(node, dict | list):
            for name, each in node.items() if isinstance(node, dict) else enumerate(node):
                walk(each, (*path, name))

    changed = copy.deepcopy(document)
    walk({name: x for name, x in document.items() if name != "claims"} if rng.random() < 0.4 else
         {"claims": document["claims"]}, ())  # fmt: skip
    places = [path for path in places if path[-1] != "kind"]
    path = places[rng.integers(len(places))]
    node = changed
    for name in path[:-1]:
        node = node[name]
    value, step = Fraction(node[path[-1]]), Fraction(int(rng.integers(-1000, 1000)), int(10 ** rng.integers(3, 7)))
    node[path[-1]] = str(value * (1 + step) if rng.random() < 0.5 else value + step)
    return path, changed


def is_true(document):
    """Whether the gains of a document are those of its game, by `em.certify`."""
    arrays = [
        np.vectorize(lambda x: float(Fraction(x)))(np.array(document["game"][name]))
        for name in ("prior", "user", "agents")
    ]
    arrays[0] /= arrays[0].sum()
    schemes = np.vectorize(lambda x: float(Fraction(x)))(np.array(document["schemes"]))
    user = em.QuantalUser(float(Fraction(document["game"]["rule"]["precision"])))
    found = em.certify(em.Game(*arrays), schemes / schemes.sum(-1, keepdims=True), POOLED, user)
    return bool((found.gain_lower <= claimed(document) + 1e-6).all())


def changed_files(count, seed):
    rng = np.random.default_rng(seed)
    for number in range(count // 10):
        game = random_game([seed, number], K=2, XA=1 + number % 2, XB=2 + number % 2)
        schemes = random_schemes(rng, 2, 2 + number % 2)
        try:
            document = proof_of(game, schemes, float(10.0 ** rng.uniform(0, 1.5)))
        except LPFailed:  # It would need too many cells.
            continue
        del document["digest"]  # `lines` gives each changed file a new one.
        for _ in range(10):
            yield mutated(document, rng)


def attack(count, seed):
    return refused_and_proved(changed_files(count, seed), lines, is_true)


@pytest.mark.slow
def test_no_changed_file_proves_what_is_not_true():
    refused, _ = attack(50, 1)
    assert refused > 10


@pytest.mark.nightly
def test_no_changed_file_of_a_thousand_proves_what_is_not_true(capsys):
    refused, proved = attack(1000, 2)
    with capsys.disabled():
        print(f"\n1,000 changed files: {refused} refused, {proved} still proved, and true")
    assert refused > 300


# What is refused, and copies.


def test_what_has_no_proof(monkeypatch):
    game = random_game(1, K=2)
    schemes = random_schemes(np.random.default_rng(4), 2, 3)
    with pytest.raises(ValueError, match="proofs: only Selection and Comparison"):
        files.draft(game, schemes, POOLED, em.RationalUser())
    with pytest.raises(ValueError, match="proofs: only Selection and Comparison"):
        files.draft(game, schemes, POOLED, em.Conservative(em.QuantalUser(5.0), 0.5))
    with pytest.raises(ValueError, match="schemes: expected a profile"):
        files.draft(game, None, POOLED, em.QuantalUser(5.0))
    with pytest.raises(ValueError, match="claims: 'coverage' does not apply here; those that do: gains"):
        files.draft(game, schemes, POOLED, em.QuantalUser(5.0), claims=["coverage"])
    with pytest.raises(ValueError, match=r"XB = \d{5}, the limit with a quantal user is 10000"):
        proof_of(game, np.full((2, 3, 1200), 1 / 1200), 5.0)
    many = random_game(1, K=2, XB=4)
    with pytest.raises(ValueError, match="at most 3 x_B, got 4"):
        proof_of(many, random_schemes(np.random.default_rng(4), 2, 4), 5.0)
    monkeypatch.setattr(evidence_quantal, "MOST_CELLS", 0)
    with pytest.raises(ValueError, match="more than 0 cells of beliefs are needed"):
        proof_of(game, schemes, 20.0)


def test_without_python_flint_one_line_says_what_to_install(monkeypatch, document, tmp_path):
    path = tmp_path / "proof.json"
    path.write_text(json.dumps(files.signed(document)))
    monkeypatch.setattr(verify_quantal, "flint", None)
    with pytest.raises(ValueError, match=r"python-flint: pip install 'emalign-jax\[proofs\]'"):
        em.verify_proof(path)
    game = random_game(1, K=2)
    with pytest.raises(ValueError, match=r"python-flint: pip install 'emalign-jax\[proofs\]'"):
        em.write_proof(tmp_path / "new.json", game, np.stack([np.eye(3)] * 2), POOLED, em.QuantalUser(5.0))
    em.write_proof(path, game, claims=["coverage"])  # Rational users need none.
    assert em.verify_proof(path)[0].startswith("coverage")


@pytest.mark.slow
def test_the_verifier_needs_two_files_and_python_flint(document, tmp_path):
    """Isolated, beside another package of that name; a file about a rational user is checked too."""
    path, rational = tmp_path / "proof.json", tmp_path / "rational.json"
    path.write_text(json.dumps(files.signed(document)))
    em.write_proof(rational, random_game(1, K=2), claims=["coverage"])
    alone = tmp_path / "alone"
    alone.mkdir()
    for module in (verify, verify_quantal):
        (alone / Path(module.__file__).name).write_bytes(Path(module.__file__).read_bytes())
    (alone / "emalign_jax.py").write_text("raise ImportError")

    def run(script, *paths):
        command = [sys.executable, "-I", str(alone / script), *map(str, paths)]
        return subprocess.run(command, capture_output=True, text=True, cwd=alone, env={}, check=False)

    done = run("verify_quantal.py", path, rational)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("proved: ") == 2
    assert lines(document)[0] in done.stdout
    done = run("verify.py", path)
    assert (done.returncode, "verify_quantal.py checks" in done.stdout) == (1, True)
    text = (alone / "verify_quantal.py").read_text()
    imports = [line.split()[1] for line in text.splitlines() if line.strip().startswith(("import ", "from "))]
    standard = {"itertools", "math", "os", "sys", "fractions"}
    assert set(imports) <= standard | {"flint", "emalign_jax.exact.proofs", "verify"}
