"""The command line, `mergesweep VERB`: a verb loads no more than it needs."""

import os
import sys
from contextlib import nullcontext
from pathlib import Path

import click

from orchestrator.cli import cluster_verbs as cli_cluster
from orchestrator.cli.fast_exit import ending_at_once
from orchestrator.cli.options import (
    BadInputError,
    bad_input,
    name_argument,
    new_console,
    open_file,
    open_name,
    store_at,
    store_option,
    study_argument,
    take_over_option,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mergesweep")
def cli() -> None:
    """Run model-merging studies: fine-tune experts, merge groups of them, compare.

    Everything that a study is stands in one file, STUDY.yaml. Running it again goes on where it
    stopped; what is in the store is never made twice.

    Exit codes: 0 done, 1 something failed, 2 bad input, 3 incomplete, 130 interrupted.
    """


@cli.command()
@study_argument
@click.option("--json", "as_json", is_flag=True, help="Print the whole plan as JSON.")
@click.option(
    "--slots",
    "num_slots",
    type=click.IntRange(min=1),
    help="Workers at once, for the time that it will take; what this machine's cores have room for "
    "when left out.",
)
@click.option(
    "--calibrate",
    "is_calibrated",
    is_flag=True,
    help="First time a few steps, evaluations and merges on this machine, for a minute a model at "
    "most, and keep that beside the study. Needs neither its images nor its weights.",
)
def plan(study_file: Path, *, as_json: bool, num_slots: int | None, is_calibrated: bool) -> None:
    """Show what STUDY.yaml will run, what sharing saves, and what the rest will cost.

    Also what its budget leaves out, and what the figures rest on. Runs nothing of it.
    """
    from orchestrator.cli.verbs.plan import calibrate_here, show_plan
    from orchestrator.costs.calibration import CalibrationError

    opened = open_file(study_file)
    if is_calibrated:
        try:
            opened = calibrate_here(opened, console=new_console(stderr=as_json))
        except CalibrationError as error:
            raise click.ClickException(f"nothing could be timed: {error}") from error
    show_plan(opened, console=new_console(), as_json=as_json, num_slots=num_slots)


@cli.command()
@study_argument
@take_over_option
def prepare(study_file: Path, *, take_over: bool) -> None:
    """Make the base and the images of STUDY.yaml, and nothing else.

    The first stage of a run on its own: every image is decoded and resized once and stored. Ctrl-C
    stops; the same command, or a run, goes on from the shards that are finished.
    """
    from orchestrator.cli.verbs.prepare import prepare_opened

    opened = open_file(study_file)
    sys.exit(prepare_opened(opened, console=new_console(), take_over=take_over))


@cli.command()
@study_argument
@take_over_option
def run(study_file: Path, *, take_over: bool) -> None:
    """Run STUDY.yaml, or what is left of it.

    Uses the Ray cluster that RAY_ADDRESS names, or this machine. Ctrl-C stops cleanly: what is
    whole stays, and the same command goes on from there.
    """
    from orchestrator.cli.verbs.run import run_opened

    opened = open_file(study_file)
    sys.exit(run_opened(opened, console=new_console(), take_over=take_over))


@cli.command()
@name_argument
@store_option
@take_over_option
def resume(name: str, store: str, *, take_over: bool) -> None:
    """Go on with study NAME from its store alone, without the YAML file."""
    from orchestrator.cli.verbs.run import run_opened

    opened = open_name(name, store)
    sys.exit(run_opened(opened, console=new_console(), take_over=take_over))


@cli.command()
@name_argument
@store_option
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    default="table",
    show_default=True,
    help="table: means over the groups; the others: every row, to standard output.",
)
@click.option("--experts", is_flag=True, help="The experts on their own tasks, not the merges.")
@click.option("--means", is_flag=True, help="Means over the groups in the other formats, too.")
def results(name: str, store: str, output_format: str, *, experts: bool, means: bool) -> None:
    """Print the results of study NAME, as far as it is."""
    from orchestrator.cli.verbs.results import show_results

    if experts and means:
        raise click.UsageError("--means are over groups of experts: leave out --experts")
    sys.exit(
        show_results(
            open_name(name, store, is_read_only=True),
            console=new_console(),
            output_format=output_format,
            experts=experts,
            means=means,
        )
    )


@cli.command()
@name_argument
@store_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the page goes; NAME-report.html when left out.",
)
def report(name: str, store: str, output: Path | None) -> None:
    """Write the report of study NAME: one HTML page with figures, tables and holes."""
    from orchestrator.cli.verbs.results import write_report

    opened = open_name(name, store, is_read_only=True)
    sys.exit(
        write_report(opened, path=output or Path(f"{name}-report.html"), console=new_console())
    )


@cli.command()
@name_argument
@store_option
@click.option("--port", default=5000, show_default=True, help="Port on this machine.")
def ui(name: str, store: str, port: int) -> None:
    """Open MLflow's pages on the runs of study NAME."""
    from orchestrator.cli.verbs.ui import serve_ui

    sys.exit(serve_ui(open_name(name, store), port=port, console=new_console()))


@cli.command()
@name_argument
@store_option
@click.option("--rebuild", is_flag=True, help="Delete the study's runs in MLflow first.")
def track(name: str, store: str, *, rebuild: bool) -> None:
    """Send MLflow what it lacks of study NAME, from the store alone."""
    from orchestrator.cli.verbs.maintain import track_study

    sys.exit(track_study(open_name(name, store), rebuild=rebuild, console=new_console()))


@cli.command()
@name_argument
@store_option
@click.option("--dry-run", is_flag=True, help="Only report: take nothing out.")
def verify(name: str, store: str, *, dry_run: bool) -> None:
    """Read everything of study NAME again and compare it with its digests.

    What is broken is taken out, and kept under another name: the next run makes it again, and
    nothing else.
    """
    from orchestrator.cli.verbs.maintain import verify_study

    with bad_input():
        opened = store_at(store)
        sys.exit(verify_study(opened, name, withdraw=not dry_run, console=new_console()))


@cli.command()
@store_option
@click.option("--delete", is_flag=True, help="Delete it; otherwise it is only listed.")
@click.option(
    "--min-age",
    "min_age_hours",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Hours that something must lie unused, as a run may just be writing it.",
)
def gc(store: str, *, delete: bool, min_age_hours: float) -> None:
    """List what no study in the store uses: replaced plans' artifacts, torn uploads, checkpoints.

    Looks at every study of the store. Nothing is deleted without --delete, and never what the plan
    of a study names.
    """
    from orchestrator.cli.verbs.maintain import collect_garbage

    with bad_input():
        opened = store_at(store)
        code = collect_garbage(
            opened, delete=delete, min_age_hours=min_age_hours, console=new_console()
        )
    sys.exit(code)


@cli.command()
@click.argument(
    "experts",
    metavar="EXPERT.safetensors...",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
)
@click.option("--method", required=True, help="One of `mergesweep methods`.")
@click.option(
    "--base",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file that the experts started from.",
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write.",
)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A parameter.")
@click.option(
    "--batch-norm",
    type=click.Choice(["average", "pooled", "base"]),
    default="average",
    show_default=True,
    help="What becomes of BatchNorm's running statistics.",
)
@click.option("--seed", default=0, show_default=True, help="Of methods that draw random numbers.")
@click.option(
    "--threads",
    "num_threads",
    type=click.IntRange(min=1),
    default=os.cpu_count() or 1,
    show_default="one a core",
    help="Tensors merged at once; no bit of the result depends on it.",
)
@click.option(
    "--prefix",
    default="",
    help="Merge the experts' tensors under this prefix, which is taken off: `backbone.` for the "
    "experts of a study.",
)
@click.option(
    "--align",
    is_flag=True,
    help="First bring each expert's channels into the order of the base's (Git Re-Basin): for "
    "ResNets and ViTs that were not fine-tuned from it; experts that were stay as they are.",
)
@click.option(
    "--task",
    type=click.IntRange(min=1),
    help="For methods that keep modules of each task: the place of the expert, from 1, whose task "
    "the model is for.",
)
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
def merge(
    experts: tuple[Path, ...],
    *,
    method: str,
    base: Path,
    output: Path,
    settings: tuple[str, ...],
    batch_norm: str,
    seed: int,
    num_threads: int,
    prefix: str,
    align: bool,
    task: int | None,
    overwrite: bool,
) -> None:
    """Merge safetensors files, outside any study.

    Memory holds the result and little else, whatever the number of experts. The result has the
    names, shapes and types of the base.
    """
    from merge.errors import MergeError
    from orchestrator.cli.verbs.merge import run_merge_files

    if output.exists() and not overwrite:
        raise BadInputError(f"{output} exists; --overwrite replaces it")
    if task is not None and task > len(experts):
        raise BadInputError(f"--task {task}: there are {len(experts)} experts")
    try:
        run_merge_files(
            method,
            base=base,
            experts=experts,
            output=output,
            settings=settings,
            batch_norm=batch_norm,
            seed=seed,
            num_threads=num_threads,
            prefix=prefix,
            align=align,
            task=None if task is None else task - 1,
            console=new_console(),
        )
    except MergeError as error:
        raise BadInputError(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written: {error}") from error


@cli.command()
def methods() -> None:
    """List the merging methods: what each needs, its parameters with ranges, its paper."""
    from orchestrator.cli.verbs.merge import print_methods

    print_methods(new_console())


for _command in cli_cluster.COMMANDS:
    cli.add_command(_command)


def main() -> None:
    """Runs the command line, as the process's last work."""
    loads_torch = sys.argv[1:2] == ["merge"]
    with ending_at_once() if loads_torch else nullcontext():
        cli(prog_name="mergesweep")
