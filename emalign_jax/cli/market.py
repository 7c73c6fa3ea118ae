"""`emalign market`: a table of real utilities as a market."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from emalign_jax.cli import options, proofs
from emalign_jax.experiments.market.config import MarketSpecification
from emalign_jax.experiments.progress import ProgressBar
from emalign_jax.experiments.specification import fields

KEYS = {
    "answers": "table.answers", "accept": "table.accept", "target": "table.target", "agents": "table.agents",
    "id": "table.id", "answer": "table.answer", "topic": "table.topic", "n": "market.n",
    "subsets": "market.subsets", "bootstrap": "market.bootstrap", "target_value": "market.target_value", "seed": "seed",
}  # fmt: skip


def _key(name: str, *flags: str, **look: Any) -> Any:
    words = fields(MarketSpecification)[KEYS[name]].description or ""
    return typer.Option(*flags, help=f"{words[:1].upper()}{words[1:]}.", **look)


def market(
    table: Annotated[
        str,
        typer.Argument(metavar="TABLE", help="A table (.csv, .tsv, .parquet, .npz), or a SPEC.toml that names one."),
    ],
    answers: Annotated[bool, _key("answers", "--answers")] = False,
    accept: Annotated[str | None, _key("accept", metavar="NUMBER|own-mean")] = None,
    target: Annotated[str | None, _key("target")] = None,
    agents: Annotated[str | None, _key("agents", metavar="A,B,...")] = None,
    id: Annotated[str | None, _key("id")] = None,
    answer: Annotated[str | None, _key("answer")] = None,
    topic: Annotated[str | None, _key("topic")] = None,
    n: Annotated[str | None, _key("n", metavar="N,N,...")] = None,
    subsets: Annotated[int | None, _key("subsets")] = None,
    bootstrap: Annotated[int | None, _key("bootstrap")] = None,
    target_value: Annotated[float | None, _key("target_value")] = None,
    seed: Annotated[int | None, _key("seed")] = None,
    set_: options.SetOption = None,
    out: Annotated[str | None, typer.Option(help="Run directory; default market-1, market-2, ...")] = None,
    force: options.ForceOption = False,
    workers: options.WorkersOption = 1,
    cluster: options.ClusterOption = None,
    format_: options.FormatOption = None,
    width: options.WidthOption = None,
    quiet: options.QuietOption = False,
    proof: proofs.ProofOption = None,
    json_: options.JsonOption = False,
) -> None:
    """What would a user get if the scorers of a real table competed as AIs? Exact equilibria of Selection.

    Each agent recommends in its own interest, and the user, who knows the agents' records, asks the best one. Printed
    and drawn: the user's value with nobody, with each agent alone, in the worst and the best equilibrium, and with all
    that agents know; what no equilibrium falls below; how well weighted agents stand in for the user on prompts held
    out; all of it for random n agents; the worst equilibrium without each agent, and with each one that might enter.
    Missing values are not filled in: prompts with some are left out, and the table says how many.

    \b
    Examples:
      emalign market rewards.csv --answers --target human
      emalign market rewards.csv --answers --id question --answer model --target human --agents rm-a,rm-b,rm-c
      emalign market ratings.csv --accept own-mean --id film --target ann --n 2,5,10 --bootstrap 20
      emalign market rewards.npz --answers --target-value 0.8 --json > market.json
      emalign market my-market.toml --set market.without=false --workers 2
    """
    given: dict[str, Any] = {name: value for name, value in locals().items() if name in KEYS}
    given |= {"answers": answers or None, "accept": _threshold(accept), "agents": _words(agents)}
    given |= {"n": None if n is None else list(options.integers("--n", n, 2))}

    from emalign_jax.experiments import executors
    from emalign_jax.experiments.grid.table import plain
    from emalign_jax.experiments.market import experiment, summary
    from emalign_jax.report.figures import market as figures
    from emalign_jax.report.style import attempt

    look = options.look(format_, width)
    flags = {KEYS[name]: value for name, value in given.items() if value is not None}
    changes = options.settings(set_)
    if both := sorted(flags.keys() & changes):
        raise ValueError(f"--set: {both[0]}: is given by an option too; give one of them")
    if Path(table).suffix == ".toml":
        made = experiment.prepare(table, {}, flags | changes)
    else:
        made = experiment.prepare(None, {"table.file": table}, flags | changes)
    game = None
    if proof is not None:
        game = made.table.market(made.config.made.table, made.config.made.seed).game()
    proofs.check(proof, game=game)
    drawn: list[str] = []

    def draw(found: experiment.Found) -> list[str]:
        drawn.extend(attempt(lambda: figures.draw(found, look)))
        return drawn

    with ProgressBar("step", quiet) as progress:
        place = None if out is None else Path(out)
        found = experiment.perform(made, place, force, executors.chosen(workers, cluster), progress, draw, look.asked)
    if proof is not None:
        told = proofs.write(proof, [(game, None)], quiet, fits=[("cone", "per_state")])
    drawn = drawn or [name for name in experiment.FIGURES if (found.path / name).exists()]
    if json_:
        print(json.dumps(plain(summary.document(found)), allow_nan=False))
    else:
        print(summary.render(found))
        print(f"\n{len(found.rows)} markets in {found.seconds:.1f} s. Table: {found.path / 'markets.parquet'}")
        if drawn:
            print(f"Figure: {' and '.join(str(found.path / name) for name in drawn)}")
        if proof is not None:
            print(told)
    if failed := summary.failed(found.rows):
        print(f"{failed} markets were not solved; their values are missing." * (not json_), end="\n" * (not json_))
    if failed or not drawn:
        raise typer.Exit(1)


def _words(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",")]


def _threshold(text: str | None) -> float | str | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text
