"""Declares the verbs that need no study: `merge` for files, `methods` for the list of methods."""

import os
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.options import BadInputError, new_console


@click.command()
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
    help="The file with the weights that the experts were fine-tuned from.",
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write.",
)
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="Set a parameter of the method."
)
@click.option(
    "--batch-norm",
    type=click.Choice(["average", "pooled", "base"]),
    default="average",
    show_default=True,
    help="How to merge BatchNorm's running statistics.",
)
@click.option("--seed", default=0, show_default=True, help="For methods that draw random numbers.")
@click.option(
    "--threads",
    "num_threads",
    type=click.IntRange(min=1),
    default=os.cpu_count() or 1,
    show_default="one per core",
    help="The number of tensors merged at once; the result is the same bits for every number.",
)
@click.option(
    "--prefix",
    default="",
    help="Merge only the experts' tensors under this prefix, and remove it: `backbone.` for the "
    "experts of a study.",
)
@click.option(
    "--align",
    is_flag=True,
    help="First permute each expert's channels to match the base's (Git Re-Basin). For ResNets and "
    "ViTs that were not fine-tuned from the base; experts that were do not change.",
)
@click.option(
    "--task",
    type=click.IntRange(min=1),
    help="For methods that keep modules of each task: the number of the expert, from 1, whose task "
    "the output is for.",
)
@click.option("--overwrite", is_flag=True, help="Replace the output file if it exists.")
def merge(*, task: int | None, overwrite: bool, **options: Any) -> None:  # noqa: ANN401 click's own
    """Merge safetensors files, without a study.

    The memory in use holds the result and little else, for any number of experts. The result has
    the names, shapes and types of the base.
    """
    from merge.errors import MergeError
    from orchestrator.cli.verbs.merge import MergeRequest, merge_on_request

    request = MergeRequest(task=None if task is None else task - 1, **options)
    if request.output.exists() and not overwrite:
        raise BadInputError(f"{request.output} exists; --overwrite replaces it")
    if task is not None and task > len(request.experts):
        raise BadInputError(f"--task {task}: there are {len(request.experts)} experts")
    try:
        merge_on_request(request, console=new_console())
    except MergeError as error:
        raise BadInputError(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{request.output} cannot be written: {error}") from error


@click.command()
def methods() -> None:
    """List the merging methods: what each needs, its parameters with ranges, its paper."""
    from orchestrator.cli.verbs.methods import print_methods

    print_methods(new_console())


COMMANDS = (merge, methods)
