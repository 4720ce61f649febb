"""`mergesweep merge` and `mergesweep methods`: what needs no study."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, cast

import yaml
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from merge.catalogue import CARDS, PARAMS, BatchNormPolicy, MethodCard, parse_params
from merge.errors import MergeError
from merge.ranges import range_of
from orchestrator.cli.fast_exit import loading
from orchestrator.study.yaml_text import load_yaml


class SettingsError(MergeError):
    """Settings on the command line are not NAME=VALUE; the message lists them all."""


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Returns what `--set NAME=VALUE` options say, with values as YAML reads them.

    Raises:
        SettingsError: Some are no such pair, or a name stands twice.
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


def run_merge_files(
    method: str,
    *,
    base: Path,
    experts: Sequence[Path],
    output: Path,
    settings: Sequence[str],
    batch_norm: str,
    seed: int,
    num_threads: int,
    prefix: str,
    align: bool,
    task: int | None,
    console: Console,
) -> None:
    """Merges files with a progress bar, and says what was written.

    Raises:
        MergeError: What the user gave cannot be merged.
    """
    params = parse_params(method, parse_settings(settings))
    with loading():  # torch, which takes seconds: wrong parameters are told before
        from merge.merge import MergeOptions  # noqa: PLC0415
        from workers.merging.merge_files import MergeFiles, merge_files  # noqa: PLC0415

    options = MergeOptions(
        params=params,
        batch_norm=cast("BatchNormPolicy", batch_norm),
        seed=seed,
        num_threads=num_threads,
    )
    files = MergeFiles(
        base=base, experts=experts, output=output, prefix=prefix, align=align, task=task
    )
    with Progress(console=console, transient=True) as bar:
        merging = bar.add_task(f"merging {len(experts)} experts", total=1.0)
        merge_files(
            files, options=options, progress=lambda share: bar.update(merging, completed=share)
        )
    console.print(f"wrote {output}", soft_wrap=True, highlight=False)


def print_methods(console: Console) -> None:
    """Prints every merging method: what it needs, its parameters, where it comes from."""
    table = Table("method", "needs", "parameters", "paper", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, card in CARDS.items():
        table.add_row(name, needs(card), _parameters(name), card.paper)
    console.print(table)


def needs(card: MethodCard) -> str:
    """Says what a method needs besides the weights, and what it keeps."""
    wanted = [card.data_use.replace("_", " ") if card.data_use != "none" else "nothing"]
    if card.needs_gradients:
        wanted.append("gradients")
    if card.is_per_task:
        wanted.append("the task at test time")
    return ", ".join(wanted)


def _parameters(method: str) -> str:
    lines = [f"{each.name}={_default(each)} ({range_of(each).allowed})" for each in _fields(method)]
    return "\n".join(lines) or "none"


def _fields(method: str) -> Sequence[Field[Any]]:
    return fields(PARAMS[method])


def _default(field: Field[Any]) -> str:
    assert field.default is not MISSING, "every parameter has a default"
    shown: Mapping[Any, str] = {True: "true", False: "false"}
    return shown[field.default] if isinstance(field.default, bool) else str(field.default)
