"""Declares the verbs on the models of a study: `export`."""

import sys
from pathlib import Path

import click

from orchestrator.cli.options import (
    BadInputError,
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
    help="The merge with the highest accuracy under this mean; macro if none is named.",
)
@click.option("--merge", "merge", callback=not_empty, help="Id of a merge (column merge_id).")
@click.option("--expert", callback=not_empty, help="Id of an expert (column expert_id).")
@click.option("--setting", callback=not_empty, help="A setting, as in the tables: lr=0.001.")
@click.option("--method", callback=not_empty, help="A method, as in the tables.")
@click.option("--group", callback=not_empty, help="A group, as in the tables: 4x03.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The folder to write, new or empty; NAME-merge-ID by default.",
)
def export(name: str, store: str, *, output: Path | None, **wanted: str | None) -> None:
    """Write a model of study NAME as a folder that timm loads by itself.

    Makes the merge again, bit for bit, and checks that it is the one that was evaluated. Writes
    backbone, heads, classes and a model card with a program that classifies image files.
    """
    from merge.errors import MergeError
    from orchestrator.cli.verbs.export import export_model
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


COMMANDS = (export,)
