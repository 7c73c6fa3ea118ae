"""`emalign search`: the main job."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import json
import secrets
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from emalign_jax.cli.options import (
    CompareOption,
    PluginOption,
    PrecisionOption,
    ProgressBar,
    ProtocolOption,
    RepliesOption,
    ReplyRuleOption,
    ReplyToOption,
    RoundsOption,
    SetOption,
    TemperatureOption,
    TiesOption,
    ToleranceOption,
    UserOption,
    integers,
    settings,
    tell_fallbacks,
)
from emalign_jax.experiments.words import Method, ReplyRule, ReplyTo, make_protocol, make_solver, make_user
from emalign_jax.games.families import FAMILIES

KNOBS = (
    "states", "actions", "user_features", "agent_features", "user_information", "agent_information", "noise", "bias",
    "alignment", "information_worth",
)  # fmt: skip


def search(
    games: Annotated[
        Path | None, typer.Option(help="Games to search (.npz); without it random games are drawn.")
    ] = None,
    family: Annotated[
        str, typer.Option(help=f"Families of random games, separated by commas: {', '.join(FAMILIES)}.")
    ] = "hull,noise,shared_bias",
    count: Annotated[int, typer.Option(help="Random games for each family and each number of agents.")] = 100,
    agents: Annotated[
        str | None,
        typer.Option(
            help="Numbers of agents K, with commas; default 1,2,3,5,8; 1,2,3 in Pooled, 1,2 in conversations."
        ),
    ] = None,
    states: Annotated[int, typer.Option(help="Outcomes Y.")] = 4,
    actions: Annotated[int, typer.Option(help="Actions A of the user.")] = 4,
    user_features: Annotated[
        int | None,
        typer.Option(help="Values XA of x_A, what the user sees; default 1 (nothing), 3 if it replies."),
    ] = None,
    agent_features: Annotated[
        int | None, typer.Option(help="Values XB of x_B, what the agents see; default Y.")
    ] = None,
    user_information: Annotated[float, typer.Option(help="Chance that x_A is y itself.")] = 0.5,
    agent_information: Annotated[float, typer.Option(help="Chance that x_B is y itself.")] = 1.0,
    noise: Annotated[
        float, typer.Option(help="Standard deviation of the agents' own noise (hull, noise, shared_bias).")
    ] = 1.0,
    bias: Annotated[
        float, typer.Option(help="Size of the agents' common bias (shared_bias) or of margins (goal, opposed).")
    ] = 1.0,
    alignment: Annotated[float, typer.Option(help="Share of the user's utility in family goal.")] = 0.5,
    information_worth: Annotated[
        float, typer.Option(help="Redraw a game if knowing x_B gains the user less than this share of the range of u.")
    ] = 0.02,
    protocol: ProtocolOption = "selection",
    user: UserOption = None,
    precision: PrecisionOption = None,
    ties: TiesOption = None,
    temperature: TemperatureOption = None,
    compare: CompareOption = None,
    rounds: RoundsOption = None,
    replies: RepliesOption = None,
    reply_to: ReplyToOption = ReplyTo.each,
    reply_rule: ReplyRuleOption = ReplyRule.plans,
    messages: Annotated[
        int | None,
        typer.Option(help="Different messages of an agent in a round; default: enough for a best response."),
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="monopolist or random; default monopolist in Selection, else random.")
    ] = None,
    starts: Annotated[int, typer.Option(help="Starts a game; those after the first are random.")] = 1,
    method: Annotated[
        Method, typer.Option(help="Gradient play with exact checks, or exact best responses alone.")
    ] = Method.play,
    steps: Annotated[
        int | None,
        typer.Option(help="Steps of gradient play, or best responses of a start at most."),
    ] = None,
    extrapolation: Annotated[str, typer.Option(help="none, optimistic or extragradient.")] = "none",
    tolerance: ToleranceOption = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of random games and starts.")] = 0,
    out: Annotated[str | None, typer.Option(help="Run directory; default search-1, search-2, ...")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the run directory if it is there and holds no other files.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify",
            help="--no-verify: do not check the result of play; no deviation gains, certificates or monopoly values.",
        ),
    ] = True,
    stability: Annotated[
        bool,
        typer.Option(
            "--stability/--no-stability",
            help="Set the worst exact equilibrium beside each value, where it can be computed (selection, one round, "
            "rational).",
        ),
    ] = True,
    block: Annotated[
        int | None, typer.Option(min=1, help="Games in memory at a time; default by the memory at hand.")
    ] = None,
    distributed: Annotated[
        bool, typer.Option("--distributed", help="One of several processes that the cluster (Slurm, MPI, ...) started.")
    ] = False,
    hosts: Annotated[
        int | None, typer.Option(min=2, help="The same where no cluster says so: how many there are,")
    ] = None,
    host: Annotated[int | None, typer.Option(min=0, help="which one this is, from 0,")] = None,
    coordinator: Annotated[
        str | None,
        typer.Option(
            help="and ADDRESS:PORT at which host 0 listens until all have met, there alone. Any process that "
            "reaches it can take part or end the run: no password is asked for, so the network must be trusted."
        ),
    ] = None,
    plugin: PluginOption = None,
    set_: SetOption = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of the table.")] = False,
) -> None:
    """Search equilibria, certify them, print a table and write a run directory with a figure.

    With no option: does competition align? Selection with a rational user, 1 to 8 agents who start as
    monopolists, three families of random games.

    \b
    Examples:
      emalign search
      emalign search --protocol pooled --precision 20 --agents 2 --states 3 --messages 4 --count 256
      emalign search --protocol conversation --rounds 2 --precision 20 --agents 2 --states 3 --count 50
      emalign search --compare 2 --agents 2,3,5 --count 20
      emalign search --rounds 2 --replies 3 --count 20 --agents 1,2
      emalign search --games games.npz --out my-run --json > my-run.json
      emalign search --protocol pooled --precision 20 --agents 2 --count 1000000 --no-verify
      emalign search --plugin lottery.py --protocol lottery --set protocol.cost=0.1 --user sparsemax --precision 5
      emalign search --out run --hosts 2 --host 0 --coordinator 10.0.0.1:1234   (and on the other host: --host 1)
    """
    config: dict[str, Any] = {
        name: str(value) if isinstance(value, Path) else value for name, value in locals().items()
    }
    began = time.perf_counter()

    import jax.numpy as jnp

    import emalign_jax as em
    from emalign_jax.exact import default_tolerance
    from emalign_jax.experiments import run_directory
    from emalign_jax.experiments.search import hosts as meeting
    from emalign_jax.experiments.search.job import SEARCH, SearchJob, block_size
    from emalign_jax.experiments.toml import plain_value, section
    from emalign_jax.games.files import sizes
    from emalign_jax.internal import ending, plugins
    from emalign_jax.internal.arguments import integer, shown

    config["plugin"] = plugins.load(plugin or [])
    changes = settings(config.pop("set_"), ("games", "protocol", "user"))
    config["set"] = {name: plain_value(value) for name, value in changes.items()}
    if games is not None and section(changes, "games"):
        raise ValueError("--set: games: belongs to random games; leave it out with --games")
    families = tuple(part.strip() for part in family.split(","))
    for name in families:
        if name not in FAMILIES:
            raise ValueError(f"--family: expected {', '.join(FAMILIES)}, got {shown(name)}")
    if len(set(families)) < len(families):
        raise ValueError(f"--family: expected distinct families, got {shown(family)}")
    flags = {"temperature": temperature, "rounds": rounds, "replies": replies, "compare": compare}
    rule = make_protocol(protocol, flags | section(changes, "protocol"), reply_to)
    if agents is None:
        agents = {"selection": "1,2,3,5,8", "conversation": "1,2"}.get(protocol, "1,2,3")
        if compare is not None:  # a comparison needs as many agents as it compares
            agents = ",".join(k for k in agents.split(",") if int(k) >= compare) or str(compare)
    if user_features is None:
        config["user_features"] = 1 if rule.conversation is None else 3
    if start is None:
        start = "monopolist" if protocol == "selection" and verify else "random"
    person = make_user(user, {"precision": precision, "ties": ties} | section(changes, "user"), reply_rule, rule)
    if tolerance is None:
        tolerance = config["tolerance"] = default_tolerance(rule, person)
    job = SearchJob(
        protocol=rule,
        user=person,
        solver=make_solver(method, steps, tolerance, extrapolation),
        families=families,
        agents=integers("--agents", agents, 1),
        count=count,
        knobs={name: config[name] for name in KNOBS} | section(changes, "games"),
        start=start,
        starts=starts,
        messages=messages,
        seed=seed,
        verify=verify,
        stability=stability,
    )
    most = block_size(verify) if block is None else integer("block", block, 1)
    place = None if out is None else Path(out)
    if place is not None:
        run_directory.check(place, SEARCH, force)
    if games is not None:
        read = [em.load_games(games, agents=k) for k in sizes(games)]
        job = dataclasses.replace(job, games={batch.agents: batch for batch in read})
    if not verify and method is not Method.play:
        raise ValueError("--no-verify: belongs to --method play; best_responses consist of exact checks")
    several = distributed or any(option is not None for option in (hosts, host, coordinator))
    _check_hosts(distributed, hosts, host, coordinator, out)
    run_directory.require_room(place or Path("search"), job.check(most), "count: the run")

    from emalign_jax.experiments.search import parts, table  # which take a second, as does what they load
    from emalign_jax.experiments.search.stream import search_blocks, tally

    # What draws figures is loaded while games are searched.
    threading.Thread(target=_load, args=("emalign_jax.report.search_figure",), daemon=True).start()
    if several:
        terms = {name: config[name] for name in config if name not in ("host", "json_")}
        here = meeting.meet(coordinator, hosts, host, f"{em.__version__} {terms} {jnp.result_type(float)}", most)
    else:
        here = meeting.Meeting(0, 1, secrets.randbits(32), most)
    shared = max(1, -(-max(count for _, _, count in job.cells()) // (4 * here.hosts))) if several else most
    blocks = job.blocks(min(here.block, max(shared, meeting.LEAST)) if block is None else here.block)
    with contextlib.ExitStack() as stack:
        entries = run_directory.manifest(SEARCH, config, seed, title=_title(job))
        run = None
        if here.host == 0:
            run = stack.enter_context(run_directory.begun(place, SEARCH, entries, force))
        elif place is not None:  # at the end, if host 0 was killed
            stack.enter_context(ending.cleanup(functools.partial(run_directory.clear, place, SEARCH, entries)))
        members = meeting.Hosts(here.directory(run.path if run else place or Path()), here.host, here.hosts)
        stack.enter_context(members.at_work())
        with ProgressBar() as progress:
            done = search_blocks(job, blocks, members, progress)
        members.say("searched")
        if run is None:
            code, _, where = members.wait("merged", [0])[0].partition(" ")
            print(f"emalign: host {here.host} did {done} of {len(blocks)} blocks; the run is {where}", file=sys.stderr)
            raise typer.Exit(int(code))
        members.wait("searched")
        parts.merge(members.path, blocks, run.directory)
        found = tally(run.directory, blocks)
        from emalign_jax.report.drawing import attempt
        from emalign_jax.report.search_figure import draw

        drawn = attempt(lambda: draw(found.spread, found.lines, run.directory, _title(job)))
        seconds = time.perf_counter() - began
        path = run.finish(entries, seconds)
        code = int(found.failures > 0 or not drawn)
        members.say("merged", f"{code} {path}")
    failed = table.failures(found.failed, count=found.failures)
    if json_:
        summary = {
            "cells": found.lines.to_dict("records"), "failed": found.failures, "unchecked": found.unchecked,
            "run": str(path), "tolerance": tolerance, "lp_fallbacks": found.fallbacks, "seconds": seconds,
            "below_worst": found.below_worst, "most_below_worst": found.short,
        }  # fmt: skip
        _print_json(parts.entries(path), summary)
    else:
        print(_title(job) + ": user value (0 no information, 1 full information)\n")
        print(table.render(found.lines, tolerance))
        if found.worthless:
            print(f"\n{found.worthless} games in which information is worth nothing have no normalised value.")
        if found.unproved:
            print("\nGains here are the largest that were found; the certificates do not exclude larger ones.")
        if found.unchecked:
            print("\nNot verified: these are the profiles that play ended with; deviations were not searched for.")
        if found.below_worst:
            print(f"\n{table.below_worst_words(found.below_worst, found.short)}")
        if failed:
            print(f"\nNot within {tolerance:g} of the payoff range:\n{failed}")
        print(f"\n{found.games} games in {seconds:.1f} s. Table, schemes and certificates: {path}")
        tell_fallbacks(found.fallbacks, found.games)
        if drawn:
            print(f"Figure: {' and '.join(str(path / name) for name in drawn)}")
    raise typer.Exit(code)


def _check_hosts(distributed: bool, hosts: int | None, host: int | None, coordinator: str | None, out) -> None:
    given = [option is not None for option in (hosts, host, coordinator)]
    if distributed and any(given):
        raise ValueError("--distributed: the cluster says who is who; leave out --hosts, --host and --coordinator")
    if any(given) and not all(given):
        raise ValueError("--hosts, --host, --coordinator: go together; give all three, or --distributed alone")
    if hosts is not None and host is not None and host >= hosts:
        raise ValueError(f"--host: expected a number from 0 to {hosts - 1}, got {host}")
    address, _, port = (coordinator or "a:1").rpartition(":")
    if not (address and port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535):
        raise ValueError(f"--coordinator: expected ADDRESS:PORT, with a port from 1 to 65535, got {coordinator!r}")
    if (distributed or any(given)) and out is None:
        raise ValueError("--out: needed with several hosts, and the same for all: a place that all of them see")


def _print_json(entries, summary: dict) -> None:
    """The one JSON document, entry by entry."""
    from emalign_jax.experiments.search import table

    whole = table.document([], summary)
    print(f'{{"schema": {whole["schema"]}, "games": [', end="")
    for n, entry in enumerate(entries):
        print(", " * (n > 0) + json.dumps(table.plain(entry), allow_nan=False), end="")
    print(f'], "summary": {json.dumps(whole["summary"], allow_nan=False)}}}')


def _load(module: str) -> None:
    """Import a module ahead of its use, where an error is raised again."""
    with contextlib.suppress(Exception):
        importlib.import_module(module)


def _title(job) -> str:
    start = "agents start as monopolists" if job.start == "monopolist" else "random starts"
    checked = "" if job.verify else ", not verified"
    return f"{job.protocol.title}, {job.user.title}, {start}{checked}"
