"""Declares the verbs on models that leave and enter a study, and on the study that follows it."""

import sys
from pathlib import Path

import click

from orchestrator.cli.options import (
    BadInputError,
    OutputPath,
    bad_input,
    name_argument,
    new_console,
    not_empty,
    open_name,
    store_option,
)


@click.command()
@name_argument
@store_option
@click.option(
    "--best",
    type=click.Choice(["macro", "union"]),
    is_flag=False,
    flag_value="macro",
    help="The merge with the highest accuracy under this mean, macro if none is named; with "
    "--method multi-task, the multi-task model.",
)
@click.option("--merge", "merge", callback=not_empty, help="Id in the column merge_id.")
@click.option("--expert", callback=not_empty, help="Id of an expert (column expert_id).")
@click.option("--setting", callback=not_empty, help="A setting, as in the tables: lr=0.001.")
@click.option("--method", callback=not_empty, help="A method, as in the tables: multi-task too.")
@click.option("--group", callback=not_empty, help="A group, as in the tables: 4x03.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The folder to write, new or empty; by default named after study, kind and id.",
)
def export(name: str, store: str, *, output: Path | None, **wanted: str | None) -> None:
    """Write a model of study NAME as a folder for timm.

    timm loads the folder without this program. Makes a merge again, bit for bit, and checks that it
    is the one that was evaluated; experts and multi-task models are read from the store. Writes
    backbone, heads, classes and a model card with a program that classifies image files.
    """
    from merge.errors import MergeError
    from orchestrator.cli.verbs.models import export_model
    from orchestrator.export.choice import ChoiceError, Request
    from orchestrator.export.write import ExportFolderError
    from workers.export.outcome import DifferentModelError

    if (wanted["merge"] or wanted["expert"]) and sum(map(bool, wanted.values())) > 1:
        raise click.UsageError("an id names one model: leave out the other options")
    opened = open_name(name, store, is_read_only=True)
    try:
        code = export_model(opened, Request(**wanted), path=output, console=new_console())
    except (ChoiceError, ExportFolderError) as error:
        raise BadInputError(str(error)) from error
    except (DifferentModelError, MergeError) as error:
        raise click.ClickException(str(error)) from error
    sys.exit(code)


@click.command()
@name_argument
@click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@store_option
@click.option(
    "--setting", callback=not_empty, help="The setting whose heads are used; as in the tables."
)
@click.option("--group", callback=not_empty, help="Score on this group only, such as 4x03.")
@click.option("--label", callback=not_empty, help="Name in the tables; by default the file's name.")
def score(
    name: str,
    files: tuple[Path, ...],
    store: str,
    *,
    setting: str | None,
    group: str | None,
    label: str | None,
) -> None:
    """Score models of other tools in the tables of study NAME.

    FILE is a backbone in timm's names, or a folder with one: safetensors, .pth or .bin, or the
    index of several files. It is evaluated under the heads of the study's experts, on one group or
    on all, and stands in the tables beside the study's merges, marked as external by its digest.
    """
    from orchestrator.cli.verbs.models import score_files
    from orchestrator.export.choice import ChoiceError
    from orchestrator.lease.lease import LeaseError

    opened = open_name(name, store)
    try:
        code = score_files(
            opened, files, label=label, setting=setting, group=group, console=new_console()
        )
    except ChoiceError as error:
        raise BadInputError(str(error)) from error
    except LeaseError as error:
        raise click.ClickException(str(error)) from error
    sys.exit(code)


@click.command()
@name_argument
@store_option
@click.option(
    "--candidates",
    "candidate_file",
    metavar="FILE.yaml",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Rank the combinations of the values in this file: `axes:`, with axes as in a study file. "
    "By default a grid around the values tried.",
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="LABEL",
    help="Advise on this method only, by its name in the tables; may be repeated.",
)
@click.option(
    "-o",
    "--output",
    type=OutputPath(),
    help="Write the study file that tests the advice against the best settings so far.",
)
@click.option(
    "--steps",
    "only_steps",
    is_flag=True,
    help="Advise on the steps of each task alone; -o then writes the study in which merges choose "
    "them among snapshots that exist.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the advice as JSON.")
def advise(
    name: str,
    store: str,
    *,
    candidate_file: Path | None,
    methods: tuple[str, ...],
    output: Path | None,
    as_json: bool,
    only_steps: bool,
) -> None:
    """Rank untried settings of study NAME by predicted loss.

    The loss is that of their merges. Uses the predictor with the best record on settings that were
    left out, if that beats a constant; otherwise it says so and ranks nothing. Also says which
    numbers of steps merges chose for each task, and the gain from that. Trains nothing.
    """
    from orchestrator.advice.candidate_file import read_candidates
    from orchestrator.cli.verbs.advise import show_advice
    from orchestrator.study.method_labels import labelled_methods
    from workers.store.output_file import OutputError

    with bad_input():
        values = None if candidate_file is None else read_candidates(candidate_file)
    opened = open_name(name, store, is_read_only=True)
    labels = [label for label, _ in labelled_methods(opened.plan.study.merge)]
    if unknown := [each for each in methods if each not in labels]:
        raise BadInputError(
            f"--method {unknown[0]}: the study has no such method; it has {', '.join(labels)}"
        )
    try:
        code = show_advice(
            opened,
            values=values,
            methods=methods,
            output=output,
            as_json=as_json,
            only_steps=only_steps,
            console=new_console(),
        )
    except OutputError as error:
        raise click.ClickException(f"{error} (-o FILE)") from error
    sys.exit(code)


COMMANDS = (export, score, advise)
