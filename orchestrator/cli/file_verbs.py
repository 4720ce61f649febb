"""Declares the verbs that need no study: merge, methods, check-method, init, schema."""

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.options import BadInputError, OutputPath, new_console


@click.command()
@click.argument(
    "experts",
    metavar="EXPERT.safetensors...",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path),
)
@click.option("--method", required=True, help="One of `mergesweep methods`.")
@click.option(
    "--base",
    required=True,
    type=click.Path(path_type=Path),
    help="The file with the weights that the experts were fine-tuned from.",
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=OutputPath(),
    help="The file to write.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set a parameter of the method, as `mergesweep methods` lists it; may be repeated.",
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
    "ViTs that were not fine-tuned from the base; experts that were fine-tuned "
    "from it do not change.",
)
@click.option(
    "--head-dim",
    type=click.IntRange(min=1),
    help="For --align of ViTs that are very wide or have no class token: the entries of one "
    "attention head.",
)
@click.option(
    "--task",
    type=click.IntRange(min=1),
    help="For methods that keep modules of each task: the number of the expert, from 1, whose task "
    "the output is for.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float16", "bfloat16", "float32", "float64"]),
    help="The type of all floats of the result. Base and experts may then have different ones. By "
    "default the base's, which the experts must share.",
)
@click.option("--overwrite", is_flag=True, help="Replace the output file if it exists.")
def merge(
    *,
    task: int | None,
    overwrite: bool,
    base: Path,
    experts: tuple[Path, ...],
    output: Path,
    prefix: str,
    align: bool,
    head_dim: int | None,
    dtype: str | None,
    **options: Any,  # noqa: ANN401 click's own
) -> None:
    """Merge safetensors files, without a study.

    The memory in use does not grow with the number of experts. The result has the names, shapes,
    types and metadata of the base. Everything that is wrong with files and options is reported
    before the merge begins. Ctrl-C ends it within two seconds and leaves nothing behind.
    """
    from merge.errors import MergeError
    from orchestrator.cli.verbs.merge import MergeRequest, merge_on_request
    from workers.merging.merge_inputs import MergeFiles
    from workers.models.tensor_header import TensorFileError
    from workers.store.output_file import OutputError

    files = MergeFiles(
        base=base,
        experts=experts,
        output=output,
        prefix=prefix,
        align=align,
        head_dim=head_dim,
        task=None if task is None else task - 1,
        dtype=dtype,
    )
    request = MergeRequest(files=files, is_overwriting=overwrite, **options)
    try:
        merge_on_request(request, console=new_console())
    except (MergeError, TensorFileError) as error:
        raise BadInputError(str(error)) from error
    except OutputError as error:
        raise click.ClickException(str(error)) from error


@click.command()
@click.argument("named", metavar="[METHOD...]", nargs=-1)
def methods(named: tuple[str, ...]) -> None:
    """List the merging methods, or METHODs alone.

    Prints the data that each needs, its parameters with their ranges, and its paper. Methods of
    installed packages are among them. A METHOD is named as in a study: ties, or one of your own,
    ./my_method.py:MyMethod.
    """
    from orchestrator.cli.verbs.methods import listed_methods, print_methods
    from workers.own_methods.sources import OwnMethodError

    try:
        listed = listed_methods(named)
    except OwnMethodError as error:
        raise BadInputError(str(error)) from error
    print_methods(new_console(), listed=listed)


@click.command("check-method")
@click.argument("method", metavar="METHOD")
@click.pass_context
def check_method(context: click.Context, method: str) -> None:
    """Check a merging method of your own.

    METHOD is ./my_method.py:MyMethod, or package:my_method. Prints a line for each part of the
    contract that every method keeps: shapes, dtypes, finite values, groups of any size, no change
    of the inputs, equal bits for equal seeds, no matter in which order experts come, and memory
    that does not grow with the number of experts.
    """
    from orchestrator.cli.verbs.methods import print_check
    from workers.own_methods.sources import OwnMethodError

    try:
        code = print_check(method, console=new_console())
    except OwnMethodError as error:
        raise BadInputError(str(error)) from error
    context.exit(code)


@click.command()
@click.option(
    "--from",
    "template",
    type=click.Choice(["demo", "laws", "search", "own-images", "method"]),
    default="demo",
    show_default=True,
    help="demo: minutes on two cores. laws: five axes. search: experts whose merge is best. "
    "own-images: your own folders of images. method: a merging method of your own, in "
    "my_method.py beside the study.",
)
@click.argument(
    "study_file",
    metavar="[STUDY.yaml]",
    default="study.yaml",
    type=OutputPath(),
)
def init(study_file: Path, template: str) -> None:
    """Write a commented STUDY.yaml to begin with.

    Writes the schema of study files beside it, for editors.
    """
    from orchestrator.progress.say import say
    from orchestrator.progress.visible_text import one_line
    from orchestrator.study.first_study import METHOD_FILE, StudyExistsError, write_study
    from orchestrator.study.json_schema import SCHEMA_FILE
    from workers.store.output_file import OutputError

    try:
        write_study(study_file, template=template)
    except StudyExistsError as error:
        raise BadInputError(str(error)) from error
    except OutputError as error:
        raise click.ClickException(str(error)) from error
    console = new_console()
    written = [str(study_file), *([METHOD_FILE] if template == "method" else [])]
    say(console, f"wrote {one_line(', '.join(written))}, and {SCHEMA_FILE} for editors")
    command = f"mergesweep plan {shlex.quote(str(study_file))}"
    folder = study_file.parent
    if template == "method" and folder != Path():  # the study names the method by a relative path
        name = shlex.quote(study_file.name)
        command = f"cd {shlex.quote(str(folder))} && mergesweep plan {name}"
    say(console, f"next: {one_line(command)}")


@click.command()
def schema() -> None:
    """Print the JSON Schema of study files.

    Editors and other programs check study files with it.
    """
    from orchestrator.study.first_study import schema_text

    sys.stdout.write(schema_text())


COMMANDS = (merge, methods, check_method, init, schema)
