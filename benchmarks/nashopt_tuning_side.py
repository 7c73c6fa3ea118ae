"""NashOpt's parametric game design, run by `benchmarks/tuning.py` with a Python that has it (no dependency of ours).

`python nashopt_tuning_side.py IN.npz OUT.npz`. IN: reduced games (mass [N, XA, XB], user, agents), prior
[N, XA, XB, Y], start [N, K, XB, 2], "zero" and "LP" [N, K, A, Y] transfers to start from, budget, precision (of the
user), agents_precision. Transfers within the budget are designed; agents are smoothed by entropy as in `SmoothPlay`.
OUT, a setting: schemes, transfers, and seconds [N] of a call and of one of a single iteration, nearly all of which is
compiling (`solve` compiles anew each time).
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
LEAST = 1e-5  # probability, where probabilities are the variables


def two_messages(K, XB, M):
    """The probability of the first of two messages, in a box."""
    if M != 2:
        raise ValueError(f"expected two messages, got {M}")
    size = K * XB
    box = {"lb": np.full(size, LEAST), "ub": np.full(size, 1 - LEAST)}
    return (
        lambda x: jnp.stack([x.reshape(K, XB), 1 - x.reshape(K, XB)], -1),
        lambda s: np.clip(s[..., 0].ravel(), LEAST, 1 - LEAST),
        box,
    )


def response(mass, user, precision, schemes):
    """(joint weights [n, XB], response [n, XA, A]) with two or more agents, as in section 2 of docs/model.md."""
    weights = jnp.ones_like(mass[:1])
    for scheme in schemes:
        weights = (weights[:, None] * scheme.T[None]).reshape(-1, mass.shape[1])
    sent = jnp.maximum(weights @ mass.T, 1e-300)
    total = jnp.einsum("nb,xba->nxa", weights, user)
    return weights, jax.nn.softmax(precision * total / sent[..., None], -1)


def main() -> None:
    given = np.load(sys.argv[1])
    N, K, XB, M = given["start"].shape
    shape = given["zero"].shape[1:]
    budget, precision, agents_precision = (float(given[name]) for name in ("budget", "precision", "agents_precision"))
    size, found = int(np.prod(shape)), {}
    for variables, parametrised in (("logits", by_logits), ("probabilities", two_messages)):
        schemes_of, start_of, box = parametrised(K, XB, M)
        for k in range(N):
            mass, user, agents, prior = (jnp.asarray(given[name][k]) for name in ("mass", "user", "agents", "prior"))

            def lost(x, p, game=(mass, user), schemes_of=schemes_of):
                weights, q = response(*game, precision, schemes_of(x))
                return -jnp.einsum("nxa,nb,xba->", q, weights, game[1])

            def cost(x, p, i, game=(mass, user), agents=agents, prior=prior, schemes_of=schemes_of):
                schemes = schemes_of(x)
                paid = agents[i] + jnp.einsum("xby,ay->xba", prior, p.reshape(shape)[i])
                weights, q = response(*game, precision, schemes)
                spread = -(game[0].sum(0)[:, None] * schemes[i] * jnp.log(schemes[i])).sum()
                return -(jnp.einsum("nxa,nb,xba->", q, weights, paid) + spread / agents_precision)

            costs = [lambda x, p, i=i, cost=cost: cost(x, p, i) for i in range(K)]
            game = nashopt.ParametricGNEP([XB * (M - 1)] * K, costs, npar=size, **box)
            for origin in ("zero", "LP"):
                seconds = []
                for most in (1, 400):
                    began = time.perf_counter()
                    answer = game.solve(
                        lost, pmin=np.full(size, -budget), pmax=np.full(size, budget), p0=given[origin][k].ravel(),
                        x0=jnp.asarray(start_of(given["start"][k])), maxiter=most, gne_warm_start=True, verbose=False,
                    )  # fmt: skip
                    seconds.append(time.perf_counter() - began)
                schemes = np.asarray(schemes_of(jnp.asarray(answer.x)))
                row = {"schemes": schemes, "transfers": np.asarray(answer.p).reshape(shape)}
                row |= {"compiling": seconds[0], "seconds": seconds[1]}
                for field, value in row.items():
                    found.setdefault(f"{variables}, from {origin} {field}", []).append(value)
    np.savez(sys.argv[2], **{name: np.array(column) for name, column in found.items()})


if __name__ == "__main__":
    main()
