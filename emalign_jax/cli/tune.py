"""`emalign tune`: a mechanism tuned through equilibrium, resumable."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Annotated

import typer

from emalign_jax.cli import options
from emalign_jax.cli.lines import tell_figures
from emalign_jax.experiments.progress import ProgressBar


def tune(
    config: Annotated[
        str | None, typer.Argument(metavar="SPEC.toml", help="What to tune; a file, or the name of a shipped config.")
    ] = None,
    set_: options.SetOption = None,
    out: Annotated[str | None, typer.Option(help="Directory of the run; default tune-NAME.")] = None,
    force: options.ForceOption = False,
    workers: options.WorkersOption = 1,
    cluster: options.ClusterOption = None,
    plugin: options.PluginOption = None,
    format_: options.FormatOption = None,
    width: options.WidthOption = None,
    quiet: options.QuietOption = False,
    list_: options.ListOption = False,
    json_: options.JsonOption = False,
) -> None:
    """Tune what a user, a platform or a regulator can set, by gradients through equilibrium; certify the result.

    Several starts of the parameters: in [tune], of `draws` random points the best `restarts` are moved, `polish` more
    are tried near the best, and the best `finalists` of all are judged by certified equilibria.

    What is done is kept: after an interruption the same command goes on where it stopped, to the same numbers.

    \b
    Examples:
      emalign tune transfers --out transfers
      emalign tune my-market.toml --json > my-market.json
      emalign tune transfers --set games.agents=4 --set transfers.budget=0.5
      emalign tune my-market.toml --plugin my_mechanism.py
      emalign tune --list
    """
    config = options.shipped(config, list_, "tuning")
    began = time.perf_counter()

    from emalign_jax.experiments import executors, manifests, run_store
    from emalign_jax.experiments.grid.table import document
    from emalign_jax.experiments.tune import config as configs
    from emalign_jax.experiments.tune import run
    from emalign_jax.internal import plugins
    from emalign_jax.report.figures import tuning
    from emalign_jax.report.style import attempt

    look = options.look(format_, width)
    loaded = plugins.load(plugin or [])
    what = dataclasses.replace(configs.read(config, options.settings(set_)), plugins=loaded)
    path = Path(f"tune-{Path(config).stem}" if out is None else out)
    plan = what.plain()
    entries = run_store.manifest(run.TUNE, plan, plan["seed"])
    run_store.check(path, run.TUNE, force, entries)
    configs.setup(what)  # nothing is begun that cannot be ended
    with run_store.begun(path, run.TUNE, entries, force) as here:
        drawn = [name for name in run.FIGURES if here.done and (path / name).exists()]
        if here.done:
            was = run_store.read(path)
            tolerance, seconds = (
                manifests.number(path / manifests.MANIFEST, was, name) or 0.0 for name in ("tolerance", "seconds")
            )
            found = run.read(path, tolerance)
        else:
            source = executors.chosen(workers, cluster)
            with ProgressBar("step", quiet) as bar, source as workers_:
                found = run.run(what, here, bar, workers_)
            seconds = time.perf_counter() - began
        if not drawn or look.asked:  # now, or when the run was done
            drawn = attempt(lambda: tuning.draw(found, what.title, path, look))
            here.finish(entries | {"tolerance": found.tolerance}, seconds)
    summary = run.summary(found)
    small = {name: values.tolist() for name, values in found.values.items() if values.size <= 16}
    failed = summary["games"] - summary["certified"] - summary["unrefuted"]
    if json_:
        history = {name: values.tolist() for name, values in found.history.items()}
        print(document(tuned=small, summary=summary | {"seconds": seconds, "run": str(path)}, history=history))
    else:
        print(f"{what.title}\n")
        for name in ("before", "after", "change"):
            mean, low, high = summary[name]
            print(f"  user value, {name:<7} {mean:8.4f}   95 % interval {low:.4f} to {high:.4f}")
        print(f"  cost of the mechanism {summary['cost']:.4f}; the change is net of it")
        for name in small:
            shown = ", ".join(f"{x:.4g}" for x in found.values[name].ravel())
            print(f"  {name}: {shown}")
        print(
            f"\n{summary['games']} games, {summary['certified']} both equilibria certified within "
            f"{summary['tolerance']:g} of the payoff range; {summary['steps']} steps"
        )
        if summary["unrefuted"]:
            print(f"In {summary['unrefuted']} more no larger gain was found, but none is excluded either.")
        if summary["skipped"]:
            print(f"{summary['skipped']} steps were skipped: their gradient was not finite")
        print(f"derivatives trusted in {summary['trusted']:.0%} of games; {seconds:.1f} s. Table: {path / run.TABLE}")
        tell_figures(path, run.FIGURES)
    if failed or not drawn:
        raise typer.Exit(1)
