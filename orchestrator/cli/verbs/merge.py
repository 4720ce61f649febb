"""`mergesweep merge`: merge safetensors files, without a study."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from rich.console import Console
from rich.progress import Progress

from merge.catalogue import BatchNormPolicy, parse_params
from merge.errors import MergeError
from orchestrator.cli.fast_exit import loading
from orchestrator.study.yaml_text import load_yaml


class SettingsError(MergeError):
    """Values of `--set` are not NAME=VALUE; the message lists all of them."""


@dataclass(frozen=True, kw_only=True)
class MergeRequest:
    """A merge of files, as given on the command line."""

    method: str
    base: Path
    experts: Sequence[Path]
    output: Path
    settings: Sequence[str]
    """Parameters of the method, `NAME=VALUE`."""
    batch_norm: str
    seed: int
    num_threads: int
    prefix: str
    """Only tensors whose names begin with the prefix are merged; the output drops it."""
    align: bool
    """Whether each expert's channels are first permuted to match the base's."""
    task: int | None
    """For methods that keep modules of each task: the expert's place in `experts`, from 0."""


def merge_on_request(request: MergeRequest, *, console: Console) -> None:
    """Merges files with a progress bar and prints the name of the output.

    Raises:
        MergeError: The files cannot be merged as requested.
    """
    # Before torch, which takes seconds to load: wrong parameters are reported at once.
    params = parse_params(request.method, parse_settings(request.settings))
    with loading():
        from merge.merge import MergeOptions  # noqa: PLC0415 loads torch
        from workers.merging.merge_files import MergeFiles, merge_files  # noqa: PLC0415 as above

    options = MergeOptions(
        params=params,
        batch_norm=cast("BatchNormPolicy", request.batch_norm),
        seed=request.seed,
        num_threads=request.num_threads,
    )
    files = MergeFiles(
        base=request.base,
        experts=request.experts,
        output=request.output,
        prefix=request.prefix,
        align=request.align,
        task=request.task,
    )
    with Progress(console=console, transient=True) as bar:
        merging = bar.add_task(f"merging {len(request.experts)} experts", total=1.0)
        merge_files(
            files, options=options, progress=lambda share: bar.update(merging, completed=share)
        )
    console.print(f"wrote {request.output}", soft_wrap=True, highlight=False)


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
