"""NashOpt's parametric game design, run by `benchmarks/tuning.py` with a Python that has it (no dependency of ours).

`python nashopt_tuning_side.py IN.npz OUT.npz`. IN: reduced games (mass [N, XA, XB], user, agents), prior [N, XA, XB, Y],
start [N, K, XB, M], transfers [N, K, A, Y] to start from, budget, precision (the user's), agents_precision. The design
variables are transfers within the budget; agents are smoothed by entropy as in our `SmoothPlay`. OUT, a setting: schemes,
transfers, seconds [N] of the second call for each game, and of a call of one iteration, nearly all of which is compiling.
"""

from __future__ import annotations

import sys
import time

import jax
import jax.numpy as jnp
import nashopt
import numpy as np
from nashopt_side import by_logits

jax.config.update("jax_enable_x64", True)
SETTINGS = {"rho 1e3": {"rho": 1e3}, "rho 1e5": {"rho": 1e5}, "rho 1e5, warm": {"rho": 1e5, "gne_warm_start": True}}


def response(mass, user, precision, schemes):
    """(joint weights [n, XB], law over actions [n, XA, A]) of two or more agents, as in section 2 of the model."""
    weights = jnp.ones_like(mass[:1])
    for scheme in schemes:
        weights = (weights[:, None] * scheme.T[None]).reshape(-1, mass.shape[1])
    sent = jnp.maximum(weights @ mass.T, 1e-300)
    total = jnp.einsum("nb,xba->nxa", weights, user)
    return weights, jax.nn.softmax(precision * total / sent[..., None], -1)


def main() -> None:
    given = np.load(sys.argv[1])
    N, K, XB, M = given["start"].shape
    shape = given["transfers"].shape[1:]
    budget, precision, agents_precision = (float(given[name]) for name in ("budget", "precision", "agents_precision"))
    schemes_of, start_of, _ = by_logits(K, XB, M)
    found = {name: [] for name in SETTINGS}
    for k in range(N):
        mass, user, agents, prior = (jnp.asarray(given[name][k]) for name in ("mass", "user", "agents", "prior"))

        def payoff(x, p, i, mass=mass, user=user, agents=agents, prior=prior):
            schemes = schemes_of(x)
            paid = agents[i] + jnp.einsum("xby,ay->xba", prior, p.reshape(shape)[i])
            weights, law = response(mass, user, precision, schemes)
            spread = -(mass.sum(0)[:, None] * schemes[i] * jnp.log(schemes[i])).sum()
            return -(jnp.einsum("nxa,nb,xba->", law, weights, paid) + spread / agents_precision)

        def lost(x, p, mass=mass, user=user):
            weights, law = response(mass, user, precision, schemes_of(x))
            return -jnp.einsum("nxa,nb,xba->", law, weights, user)

        size = int(np.prod(shape))
        costs = [lambda x, p, i=i, payoff=payoff: payoff(x, p, i) for i in range(K)]
        game = nashopt.ParametricGNEP([XB * (M - 1)] * K, costs, npar=size)
        bounds = {"pmin": -budget * np.ones(size), "pmax": budget * np.ones(size)}
        start = {"x0": jnp.asarray(start_of(given["start"][k])), "p0": jnp.asarray(given["transfers"][k]).ravel()}
        for name, setting in SETTINGS.items():
            seconds = []
            for most in (400, 1, 400):
                began = time.perf_counter()
                answer = game.solve(lost, **bounds, **start, **setting, maxiter=most, verbose=False)
                seconds.append(time.perf_counter() - began)
            schemes = np.asarray(schemes_of(jnp.asarray(answer.x)))
            found[name].append((schemes, np.asarray(answer.p).reshape(shape), seconds[2], seconds[1]))
    out = {}
    for name, rows in found.items():
        for field, column in zip(("schemes", "transfers", "seconds", "compiling"), zip(*rows, strict=True), strict=True):
            out[f"{name} {field}"] = np.array(column)
    np.savez(sys.argv[2], **out)


if __name__ == "__main__":
    main()
