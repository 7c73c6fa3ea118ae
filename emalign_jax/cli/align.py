"""`emalign align`: does a table of real preferences put users in the hull of others?"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from emalign_jax.cli import options
from emalign_jax.cli.options import Norm, Offset, integers
from emalign_jax.experiments.progress import ProgressBar, tell_fallbacks


def align(
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="Utilities: .csv, .tsv, .parquet, MovieLens' u.data, or .npz.")
    ],
    user: Annotated[str | None, typer.Option(help="Long table: the column of users; default user or userId.")] = None,
    item: Annotated[str | None, typer.Option(help="Long table: the column of items; default item or movieId.")] = None,
    rating: Annotated[str | None, typer.Option(help="Long table: the column of ratings; default rating.")] = None,
    target: Annotated[
        str | None, typer.Option(help="The one target: a column of a wide table, else a user; default all in turn.")
    ] = None,
    id: Annotated[
        str | None, typer.Option(help="Wide table (rows instances, columns annotators): the column that labels rows.")
    ] = None,
    question: Annotated[str | None, typer.Option(help="Answer distributions: the column of questions.")] = None,
    option: Annotated[str | None, typer.Option(help="Answer distributions: the column of options.")] = None,
    group: Annotated[str | None, typer.Option(help="Answer distributions: the column of groups.")] = None,
    share: Annotated[str | None, typer.Option(help="Answer distributions: the column of shares (of 1 or 100).")] = None,
    encoding: Annotated[str, typer.Option(help="Of a text file.")] = "utf-8",
    least_people: Annotated[int, typer.Option(min=2, help="People that the block without gaps must keep.")] = 3,
    least_items: Annotated[int, typer.Option(min=1, help="Items that the block without gaps must keep.")] = 10,
    overlap: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Keep everyone: fit each target on the items that it and its agents rated, N at least; the agents are "
            "those who share most.",
            metavar="N",
        ),
    ] = None,
    agents: Annotated[
        str | None,
        typer.Option(help="Numbers n of agents, with commas; default 1,2,5,10,20,50,100 as far as there are."),
    ] = None,
    subsets: Annotated[int, typer.Option(min=1, help="Random subsets of agents (and splits of items).")] = 20,
    targets: Annotated[
        int | None,
        typer.Option(min=1, help="Targets a subset at most; default all, or where that is long a share each."),
    ] = None,
    test_share: Annotated[float, typer.Option(help="Share of the items held out.")] = 0.3,
    offset: Annotated[
        list[Offset] | None,
        typer.Option(help="Offsets to fit, repeatable; default none and constant, with several answers per_state too."),
    ] = None,
    norm: Annotated[Norm, typer.Option(help="Of errors: l2 (RMS) or sup (largest; slower).")] = Norm.l2,
    tolerance: Annotated[
        float | None, typer.Option(help="A target is covered by a fit with an error of at most this much.")
    ] = None,
    relative_tolerance: Annotated[
        float | None, typer.Option(help="The same, so many times its error with no agent; default 0.8.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of subsets and splits.")] = 0,
    out: Annotated[str | None, typer.Option(help="Run directory; default align-1, align-2, ...")] = None,
    force: options.ForceOption = False,
    workers: options.WorkersOption = 1,
    cluster: options.ClusterOption = None,
    format_: options.FormatOption = None,
    width: options.WidthOption = None,
    quiet: options.QuietOption = False,
    json_: options.JsonOption = False,
) -> None:
    """How well do weighted sums of other people's (or AIs') utilities stand in for a user's?

    For n random agents: the error on held-out items of the best single agent, their plain mean, simplex weights and
    cone weights; which agents carry the weight; and who is still covered when any one, or any five, are removed.
    Missing values are not filled in: people and items are left out until none is missing, and the table says which; or
    with --overlap each target is fitted on what it and its agents have in common.

    \b
    Examples:
      emalign align ml-100k/u.data
      emalign align ratings.csv --user who --item film --rating stars --agents 1,5,25
      emalign align ml-100k/u.data --overlap 20
      emalign align judgements.csv --id prompt --target human
      emalign align rewards.npz --json > rewards.json
    """
    config: dict[str, Any] = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in locals().items()
        if name
        not in (
            "out",
            "force",
            "workers",
            "cluster",
            "format_",
            "width",
            "quiet",
            "json_",
        )  # of which the numbers do not depend
    }
    began = time.perf_counter()

    from emalign_jax.experiments import executors, run_store
    from emalign_jax.experiments.grid.table import JSON_SCHEMA, plain
    from emalign_jax.experiments.hull import removal, summary, tables, text
    from emalign_jax.experiments.hull.experiment import (
        ALIGN,
        CURVES,
        ERRORS,
        LEAVE_OUT,
        SIZES,
        WEIGHTS,
        HullJob,
        run,
    )
    from emalign_jax.internal import parquet
    from emalign_jax.internal.files import atomic
    from emalign_jax.report.figures import hull
    from emalign_jax.report.style import attempt, shown

    look = options.look(format_, width)
    if not 0 < test_share < 1:
        raise ValueError(f"--test-share: expected a number between 0 and 1, got {test_share:g}")
    for name, given in {"--tolerance": tolerance, "--relative-tolerance": relative_tolerance}.items():
        if given is not None and not (given >= 0 and math.isfinite(given)):
            raise ValueError(f"{name}: expected a number >= 0, got {given:g}")
    if tolerance is not None and relative_tolerance is not None:
        raise ValueError("--tolerance, --relative-tolerance: expected one of them, got both")
    asked = None if agents is None else tuple(sorted(integers("--agents", agents, 1)))
    place = None if out is None else Path(out)
    if place is not None:
        run_store.check(place, ALIGN, force)
    read = tables.read(table, tables.Options(**{f.name: config[f.name] for f in dataclasses.fields(tables.Options)}))
    if read.item_count < 4:
        raise ValueError(
            f"{table}: {read.item_count} {read.items} are left; the split needs at least 4, two to fit and two to test"
        )
    job = HullJob(
        table=read,
        sizes=asked or SIZES,
        subsets=subsets,
        offsets=_offsets(offset, read.per_state, table),
        norm=norm.value,
        test_share=test_share,
        targets=targets,
        tolerance=tolerance,
        seed=seed,
        relative_tolerance=0.8 if relative_tolerance is None else relative_tolerance,
    )
    available = job.available
    if available == 0:
        raise ValueError(
            f"--overlap: half of the targets have no agent with {overlap} of the {read.items} fitted to in common, and "
            "2 of those held out; expected less"
        )
    if asked is None:
        job = dataclasses.replace(job, sizes=_sizes(SIZES, available))
    elif asked[-1] > available and overlap is None:
        raise ValueError(f"--agents: expected at most {available} (those in {table} beside a target), got {asked[-1]}")
    elif asked[-1] > available:
        raise ValueError(
            f"--agents: expected at most {available} (half of the targets have no more with --overlap {overlap}), "
            f"got {asked[-1]}"
        )
    job.check()
    with open(table, "rb") as file:  # a table may change under its name
        config["table_sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    entries = run_store.manifest(ALIGN, config, seed)
    with run_store.begun(place, ALIGN, entries, force) as here:  # what is kept is not fitted again
        source = executors.chosen(workers, cluster)
        with ProgressBar("fit", quiet) as progress, source as workers_:
            outcome = run(job, progress, here, workers_)
            removing = time.perf_counter()
            left = removal.leave_out(job, progress)
            removing = time.perf_counter() - removing
        lines = summary.curves(job, outcome.errors)
        covered = summary.coverage(job, left)
        failed = int(np.sum(lines["failed"]) + np.isnan(left["error"]).sum())
        fallbacks = int(np.sum(outcome.errors["fallback"]))
        seconds = time.perf_counter() - began
        names = [read.names[t] for t in read.targets]
        facts = {
            "kind": read.kind, "people": len(read.names), "people_are": read.people, "items": read.item_count,
            "items_are": read.items, "answers": read.utilities.shape[1], "targets": len(names), "held_out": job.tests,
            "targets_a_subset": max(map(len, job.assignment())), "left_out": list(read.notes), "overlap": overlap,
        }  # fmt: skip
        errors = outcome.errors.assign(target=[names[t] for t in outcome.errors["target"]])
        left = left.assign(target=[names[t] for t in left["target"]])
        with atomic(here.path / ERRORS) as made:
            parquet.write(made, errors)
        for name, rows in {CURVES: lines, WEIGHTS: outcome.weights, LEAVE_OUT: left}.items():
            with atomic(here.path / name) as made:
                text.write(made, rows)
        targets_are = "one target" if len(names) == 1 else f"{len(names)} targets"
        title = f"{shown(table.name)}: {targets_are}, {read.item_count} {read.items}, {job.tests} of them held out"
        if overlap is not None:
            main = lines.loc[(lines["offset"] == job.main_offset) & (lines["method"] == "simplex")].iloc[-1]
            title += f"\nfitted on common {read.items}, {overlap} at least; n = {main['agents']}: {main['targets']}"
            title += (
                f" targets, on average {main['items']:.0f} {read.items} to fit and {main['test_items']:.0f} held out"
            )
        drawings = look.paths(here.path, "hull")
        drawn = attempt(lambda: hull.draw(job, lines, left, drawings, title, look))
        found = {"table": facts, "verdict": summary.verdict(job, lines), "coverage": covered}
        path = here.path
        here.finish(plain(entries | found), seconds)
    if json_:
        value = {
            "table": facts, "curves": lines.to_dict("records"), "weights": outcome.weights.to_dict("records"),
            "verdict": found["verdict"], "coverage": covered, "leave_out": left.to_dict("records"),
            "summary": {
                "failed": failed, "lp_fallbacks": fallbacks, "run": str(path), "seconds": seconds, "norm": job.norm,
            },
        }  # fmt: skip
        print(json.dumps(plain({"schema": JSON_SCHEMA} | value), allow_nan=False))
    else:
        _print(job, lines, outcome.weights, summary.render_coverage(job, covered, removing), facts, failed)
        print(f"\n{len(outcome.errors)} errors in {seconds:.1f} s. Errors, curves, weights and who is covered: {path}")
        tell_fallbacks(fallbacks, len(outcome.errors))
        if drawn:
            print(f"Figure: {' and '.join(str(path / name) for name in drawn)}")
    if failed or not drawn:
        raise typer.Exit(1)


def _sizes(usual: tuple[int, ...], available: int) -> tuple[int, ...]:
    """The usual numbers of agents up to what every target has, and that number where it is less than the largest."""
    sizes = tuple(n for n in usual if n <= available)
    return sizes if sizes[-1] == usual[-1] or sizes[-1] == available else (*sizes, available)


def _offsets(asked, per_state: bool, table: Path) -> tuple[str, ...]:
    every = ("none", "constant", "per_state") if per_state else ("none", "constant")
    if not asked:
        return every
    words = {offset.value for offset in asked}
    if not words <= set(every):
        raise ValueError(
            f"--offset: per_state needs several answers an item, {table} has one (so that it would fit anything); "
            "take none or constant"
        )
    return tuple(word for word in every if word in words)


def _print(job, lines, weights, covered, facts, failed) -> None:
    from emalign_jax.experiments.hull import summary

    table = job.table
    answers = f" x {facts['answers']} answers" if facts["answers"] > 1 else ""
    print(
        f"{facts['kind']}: {facts['people']} {table.people}, {facts['items']} {table.items}{answers}; "
        f"{facts['targets']} in turn as target, {facts['targets_a_subset']} a subset of agents, {job.subsets} subsets; "
        f"{job.tests} {table.items} held out"
    )
    for note in table.notes:
        print(f"  {note}")
    print()
    print(summary.render(job, lines))
    print(summary.verdict(job, lines) + "\n")
    print(summary.render_weights(weights, job.sizes[-1]) + "\n")
    print(covered)
    if failed:
        print(f"\n{failed} fits were not solved; they are missing from the means above.")
