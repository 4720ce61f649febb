"""`mergesweep merge`: merge safetensors files, without a study."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import yaml
from rich.console import Console
from rich.progress import Progress

from eval.counts import counted
from merge.catalogue import (
    BatchNormPolicy,
    lacking_data,
    parse_params,
    wrong_number,
    wrong_task,
)
from merge.errors import MergeError
from merge.parameters.sparse import ConsensusTaParams
from orchestrator.cli.fast_exit import loading
from orchestrator.cli.options import new_console
from orchestrator.progress.say import say
from orchestrator.progress.visible_text import one_line
from orchestrator.study.yaml_text import load_yaml
from workers.merging.merge_inputs import MergeFiles, check_files
from workers.store.output_file import OutputError, check_output

if TYPE_CHECKING:
    from merge.parameters.method_params import MethodParams

MAX_PROBLEMS_SHOWN = 20


class SettingsError(MergeError):
    """Values of `--set` are not NAME=VALUE; the message lists all of them."""


class RequestError(MergeError):
    """Files, options and parameters that give no merge; the message has a line for each problem."""


@dataclass(frozen=True, kw_only=True)
class MergeRequest:
    """A merge of files, as given on the command line."""

    method: str
    files: MergeFiles
    settings: Sequence[str]
    """Parameters of the method, `NAME=VALUE`."""
    batch_norm: str
    seed: int
    num_threads: int
    is_overwriting: bool
    """Whether the output may replace a file."""


def merge_on_request(request: MergeRequest, *, console: Console) -> None:
    """Merges files with a progress bar and prints the name of the output.

    Raises:
        MergeError: The files cannot be merged as requested.
        OutputError: The output cannot be written.
    """
    # Before torch, which takes seconds to load: everything that is wrong is reported at once.
    files, checked = request.files, check_files(request.files)
    params = _checked_params(request, file_problems=checked.problems)
    with loading():
        from merge.merge import MergeOptions  # noqa: PLC0415 loads torch
        from workers.merging.merge_files import merge_files  # noqa: PLC0415 as above

    options = MergeOptions(
        params=params,
        batch_norm=cast("BatchNormPolicy", request.batch_norm),
        seed=request.seed,
        num_threads=request.num_threads,
    )
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        merging = bar.add_task(f"merging {counted(len(files.experts), 'expert')}", total=1.0)
        outliers = merge_files(
            files,
            headers=checked.headers,
            options=options,
            progress=lambda share: bar.update(merging, completed=share),
        )
    if told := [*checked.remarks, *outliers]:
        say(
            new_console(stderr=True),
            _listed([f"warning: {each}" for each in told], kind="warnings"),
        )
    say(console, f"wrote {one_line(str(files.output))}")


def _checked_params(request: MergeRequest, *, file_problems: Sequence[str]) -> "MethodParams":
    """Returns the parameters of the method, if nothing at all is wrong.

    Raises:
        RequestError: Parameters, options or files are wrong.
        OutputError: Everything is right, but the output cannot be written.
    """
    problems: list[str] = []
    params, output_error = None, None
    files = request.files
    try:
        params = parse_params(request.method, parse_settings(request.settings))
        problems += filter(None, _unfit(params, files=files))
    except MergeError as error:
        problems += str(error).splitlines()
    if files.task is not None and files.task >= len(files.experts):
        problems.append(f"--task {files.task + 1}: experts are numbered 1 to {len(files.experts)}")
    if files.head_dim is not None and not files.align:
        problems.append("--head-dim is for --align: add --align, or leave it out")
    problems += file_problems
    try:
        check_output(files.output)
        if files.output.exists() and not request.is_overwriting:
            problems.append(f"{files.output} exists; --overwrite replaces it")
    except OutputError as error:
        output_error = error
    if params is None or problems:
        raise RequestError(_listed([*problems, *filter(None, [output_error])], kind="problems"))
    if output_error is not None:
        raise output_error
    return params


def _unfit(params: "MethodParams", *, files: MergeFiles) -> Iterator[str | None]:
    """Yields why a method cannot merge these files, with None for each rule that they keep."""
    yield lacking_data(params)
    yield wrong_number(params, num_experts=len(files.experts))
    yield wrong_task(params, has_task=files.task is not None)
    num_experts = len(files.experts)
    if isinstance(params, ConsensusTaParams) and params.min_tasks > num_experts:
        yield (
            f"consensus_ta keeps entries that min_tasks={params.min_tasks} experts use, and there "
            f"{'is' if num_experts == 1 else 'are'} {num_experts}: the result would be the base"
        )


def _listed(found: Sequence[object], *, kind: str) -> str:
    lines = [str(each) for each in found[:MAX_PROBLEMS_SHOWN]]
    if len(found) > len(lines):
        lines.append(f"and {len(found) - len(lines)} more {kind}")
    return "\n".join(lines)


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Returns the values of `--set NAME=VALUE` options by name, parsed as YAML.

    Raises:
        SettingsError: Some options are not NAME=VALUE, or a name is set twice.
    """
    values: dict[str, Any] = {}
    problems = []
    for setting in settings:
        name, equals, text = setting.partition("=")
        try:
            value = load_yaml(text)
        except yaml.YAMLError:
            equals = ""
        if not equals or not name:
            problems.append(f"--set {setting}: must be NAME=VALUE")
        elif name in values:
            problems.append(f"--set {setting}: {name} is set twice")
        else:
            values[name] = value
    if problems:
        raise SettingsError("\n".join(problems))
    return values
