"""Declares the verbs on a study and its store.

Each declaration imports its verb's module when it is called, so that `--help` stays fast and a verb
loads only what it needs.
"""

import sys
from pathlib import Path

import click

from orchestrator.cli.options import (
    NumberRange,
    OutputPath,
    bad_input,
    check_environment,
    name_argument,
    new_console,
    open_file,
    open_name,
    require_constants,
    store_at,
    store_option,
    study_argument,
    take_over_option,
)

MAX_AGE_HOURS = 1e6
"""A century; a greater number, or one that is no number, is a mistake."""


@click.command()
@study_argument
@click.option("--json", "as_json", is_flag=True, help="Print the whole plan as JSON.")
@click.option(
    "--slots",
    "num_slots",
    type=click.IntRange(min=1),
    help="The number of workers at once, for the estimated time; by default as many as fit this "
    "machine's cores.",
)
@click.option(
    "--calibrate",
    "is_calibrated",
    is_flag=True,
    help="First time a few steps, evaluations and merges on this machine, for at most a minute per "
    "model, and store the times with the study. Needs neither the study's images nor its weights.",
)
def plan(study_file: Path, *, as_json: bool, num_slots: int | None, is_calibrated: bool) -> None:
    """Show what STUDY.yaml will run and what it will cost.

    Also shows what prefix sharing saves (step counts that are snapshots of one trial), which jobs
    do not fit the budget, and the basis of the estimates. Runs nothing of the study.
    """
    from orchestrator.cli.verbs.plan import calibrate_here, show_plan
    from orchestrator.costs.calibration import CalibrationError

    opened = open_file(study_file, is_read_only=not is_calibrated)
    if is_calibrated:
        try:
            opened = calibrate_here(opened, console=new_console(stderr=as_json))
        except CalibrationError as error:
            raise click.ClickException(f"nothing could be timed: {error}") from error
    require_constants(opened)
    show_plan(opened, console=new_console(), as_json=as_json, num_slots=num_slots)


@click.command()
@study_argument
@take_over_option
def prepare(study_file: Path, *, take_over: bool) -> None:
    """Make only the base and the images of STUDY.yaml.

    This is the first stage of a run: every image is decoded, resized and stored once. Ctrl-C stops
    it; the same command, or a run, continues from the finished shards.
    """
    from orchestrator.cli.verbs.prepare import prepare_opened

    check_environment()
    opened = open_file(study_file)
    sys.exit(prepare_opened(opened, console=new_console(), take_over=take_over))


@click.command()
@study_argument
@take_over_option
def run(study_file: Path, *, take_over: bool) -> None:
    """Run STUDY.yaml, or the rest of it.

    Uses the Ray cluster that RAY_ADDRESS names, or this machine. Ctrl-C stops the run cleanly:
    everything that was committed is kept, and the same command continues from there.
    """
    from orchestrator.cli.verbs.run import run_opened

    check_environment()
    opened = open_file(study_file)
    sys.exit(run_opened(opened, console=new_console(), take_over=take_over))


@click.command()
@name_argument
@store_option
@take_over_option
def resume(name: str, store: str, *, take_over: bool) -> None:
    """Continue study NAME from its store alone.

    The store has the study file that was run last, so the YAML file may be gone.
    """
    from orchestrator.cli.verbs.run import run_opened

    check_environment()
    opened = open_name(name, store)
    sys.exit(run_opened(opened, console=new_console(), take_over=take_over))


@click.command()
@name_argument
@store_option
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    default="table",
    show_default=True,
    help="table: means over the groups. The other formats write every row to standard output.",
)
@click.option("--experts", is_flag=True, help="Show the experts on their own tasks instead.")
@click.option("--means", is_flag=True, help="Write means over the groups in the other formats too.")
@click.option(
    "--pairs",
    is_flag=True,
    help="Show which differences are real: the best setting and the best method against the "
    "others, in the same groups.",
)
@click.option(
    "--candidates",
    is_flag=True,
    help="Show the candidates of the study's search, with their scores on validation images.",
)
@click.option(
    "--winner",
    type=OutputPath(),
    help="Write a study file that fixes the winner of the study's search, and print nothing else.",
)
def results(
    name: str,
    store: str,
    output_format: str,
    *,
    experts: bool,
    means: bool,
    pairs: bool,
    candidates: bool,
    winner: Path | None,
) -> None:
    """Print the results that study NAME has so far."""
    from orchestrator.cli.verbs.results import Shown, show_results, write_winner
    from workers.store.output_file import OutputError

    if experts and means:
        raise click.UsageError("--means are over groups of experts: leave out --experts")
    if pairs and (experts or means):
        raise click.UsageError("--pairs compares merges: leave out --experts and --means")
    if candidates and (experts or means or pairs):
        raise click.UsageError("--candidates is a table of its own: leave out the other tables")
    if output_format == "parquet" and sys.stdout.isatty():
        raise click.UsageError("a terminal cannot show Parquet: redirect it, `> rows.parquet`")
    opened = open_name(name, store, is_read_only=True)
    if (candidates or winner) and opened.plan.study.search is None:
        raise click.UsageError(f"study {name} has no `search` section")
    if winner is not None:
        try:
            sys.exit(write_winner(opened, path=winner, console=new_console()))
        except OutputError as error:
            raise click.ClickException(f"{error} (--winner FILE)") from error
    shown: Shown = "candidates" if candidates else "pairs" if pairs else "rows"
    sys.exit(
        show_results(
            opened,
            console=new_console(),
            output_format=output_format,
            shown="experts" if experts else "means" if means else shown,
        )
    )


@click.command()
@name_argument
@store_option
@click.option(
    "-o",
    "--output",
    type=OutputPath(),
    help="The file to write; NAME-report.html by default.",
)
def report(name: str, store: str, output: Path | None) -> None:
    """Write the report of study NAME as one HTML page.

    It has figures and tables, and lists the holes: experts and merges that the tables lack.
    """
    from orchestrator.cli.verbs.report import write_report
    from workers.store.output_file import OutputError

    opened = open_name(name, store, is_read_only=True)
    path = output or Path(f"{name}-report.html")
    try:
        code = write_report(opened, path=path, console=new_console())
    except OutputError as error:
        raise click.ClickException(f"{error} (-o FILE)") from error
    sys.exit(code)


@click.command()
@name_argument
@store_option
def theory(name: str, store: str) -> None:
    """Say what the results of study NAME show about merging.

    Says which differences are real, which law the loss follows along each axis, and which
    quantities rank and predict merges, each with its uncertainty. Writes tables, and a chapter of
    the report, to the store. Trains and measures nothing; it uses the constants that `measure` has
    made.
    """
    from orchestrator.cli.verbs.theory import show_theory

    sys.exit(show_theory(open_name(name, store), console=new_console()))


@click.command()
@name_argument
@store_option
@click.option(
    "--curvature",
    is_flag=True,
    help="Measure curvature too: for each task as much work as some hundred steps of training.",
)
@click.option(
    "--leave-one-out",
    is_flag=True,
    help="Merge again without each expert, to see which signs flip.",
)
@take_over_option
def measure(
    name: str, store: str, *, curvature: bool, leave_one_out: bool, take_over: bool
) -> None:
    """Measure the theory's constants for study NAME.

    These are gradients of the base on each task with their noise, the reach of each expert's path,
    and the changes that methods make to the spread of task vectors. Also prints the statements of
    the theory about each setting. Makes the measurements that the store lacks, on the study's
    cluster; `theory` uses them for its predictors.
    """
    from orchestrator.cli.verbs.measure import measure_study

    check_environment()
    code = measure_study(
        open_name(name, store),
        curvature=curvature,
        leave_one_out=leave_one_out,
        console=new_console(),
        take_over=take_over,
    )
    sys.exit(code)


@click.command()
@name_argument
@store_option
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=5000,
    show_default=True,
    help="The port on this machine.",
)
def ui(name: str, store: str, port: int) -> None:
    """Open MLflow's pages on the runs of study NAME."""
    from orchestrator.cli.verbs.ui import serve_ui

    opened = open_name(name, store, is_read_only=True)
    sys.exit(serve_ui(opened, port=port, console=new_console()))


@click.command()
@name_argument
@store_option
@click.option("--rebuild", is_flag=True, help="Delete the study's runs in MLflow first.")
def track(name: str, store: str, *, rebuild: bool) -> None:
    """Send MLflow the runs of study NAME that it lacks.

    Reads the store alone, and runs nothing of the study.
    """
    from orchestrator.cli.verbs.track import track_study

    sys.exit(track_study(open_name(name, store), rebuild=rebuild, console=new_console()))


@click.command()
@name_argument
@store_option
@click.option("--dry-run", is_flag=True, help="Only report broken artifacts: withdraw none.")
def verify(name: str, store: str, *, dry_run: bool) -> None:
    """Compare all files of study NAME with their digests.

    Broken artifacts are withdrawn: their manifests are kept under another name, and the next run
    makes these artifacts again.
    """
    from orchestrator.cli.verbs.verify import verify_study

    with bad_input():
        opened = store_at(store)
        sys.exit(verify_study(opened, name, withdraw=not dry_run, console=new_console()))


@click.command()
@store_option
@click.option("--delete", is_flag=True, help="Delete the listed objects; otherwise only list them.")
@click.option(
    "--min-age",
    "min_age_hours",
    type=NumberRange(min=0, max=MAX_AGE_HOURS),
    default=1.0,
    show_default=True,
    help="Keep objects younger than this many hours, as a worker may still be writing them.",
)
def gc(store: str, *, delete: bool, min_age_hours: float) -> None:
    """List or delete objects that no study in the store uses.

    These are artifacts that no plan names, torn uploads and unused checkpoints. Looks at every
    study of the store. Deletes nothing without --delete, and never deletes an artifact that a
    study's plan names.
    """
    from orchestrator.cli.verbs.gc import collect_garbage

    with bad_input():
        opened = store_at(store)
        code = collect_garbage(
            opened, delete=delete, min_age_hours=min_age_hours, console=new_console()
        )
    sys.exit(code)


COMMANDS = (plan, prepare, run, resume, results, report, theory, measure, ui, track, verify, gc)
