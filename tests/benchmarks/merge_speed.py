"""Compares merging with the peers, from files to a file, one process per merge: `make bench-merge`.

    python tests/benchmarks/merge_speed.py --models resnet50 --experts 8,20 --methods ties,average

The tools take turns (ours, FusionBench, mergekit, the floor, ours, ...), so that a slow minute of
the machine affects all of them. Nothing else should run on the machine.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from measured_process import Cost, ProcessFailedError, available_gb, measure
from merge_contest import COMMANDS, METHODS, Entry, entries_of
from merge_inputs import Inputs, compare, write_inputs

HEADER = (
    "| model, experts | method | tool | CPU, s | of it after imports, s | wall, s "
    "| own memory, GB | resident, GB | differs from ours |"
)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One measured merge."""

    cost: Cost
    cpu_after_imports_s: float


def main(arguments: Sequence[str]) -> None:
    """Prints the table, each row as soon as it is measured."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # deletes the models as well
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()};")  # noqa: T201 its output
    print(f"{options.repeats} measurements of each: median (least - most)\n\n{HEADER}")  # noqa: T201 as above
    print("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- |")  # noqa: T201 as above
    limit_gb = options.memory_limit_gb or 0.85 * available_gb()
    for model in options.models.split(","):
        for num_experts in map(int, options.experts.split(",")):
            with scratch(options) as directory:
                inputs = write_inputs(model, num_experts=num_experts, directory=directory)
                for method in options.methods.split(","):
                    for line in rows_of(inputs, method, options.repeats, limit_gb):
                        print(line, flush=True)  # noqa: T201 as above


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default="resnet50", help="timm models, separated by commas")
    parser.add_argument("--experts", default="8,20", help="numbers of experts")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--directory", type=Path, help="parent of the temporary directory")
    parser.add_argument("--keep", action="store_true", help="keep the models")
    parser.add_argument(
        "--memory-limit-gb", type=float, help="default: 85 %% of the available memory"
    )
    return parser.parse_args(arguments)


@contextmanager
def scratch(options: argparse.Namespace) -> Iterator[Path]:
    """Creates a directory and deletes it afterwards, unless `--keep` is given."""
    directory = Path(tempfile.mkdtemp(prefix="merge-speed-", dir=options.directory))
    try:
        yield directory
    finally:
        if not options.keep:
            shutil.rmtree(directory)


def rows_of(inputs: Inputs, method: str, repeats: int, limit_gb: float) -> Iterator[str]:
    """Runs the tools that have a method in turns; yields a row of the table for each."""
    entries = entries_of(method, num_experts=inputs.num_experts)
    measured: dict[str, list[Measurement]] = {entry.tool: [] for entry in entries}
    stopped: dict[str, str] = {}
    for entry in [entry for _ in range(repeats) for entry in entries]:
        if entry.tool not in stopped:
            try:
                measured[entry.tool].append(run_once(entry, inputs=inputs, limit_gb=limit_gb))
            except ProcessFailedError as error:
                stopped[entry.tool] = str(error).splitlines()[-1]
    for entry in entries:
        if entry.tool in stopped:
            cells = [stopped[entry.tool], *[""] * 5]
        else:
            cells = [*figures(measured[entry.tool]), agreement(entry, inputs=inputs)]
        yield "| " + " | ".join([inputs.title, method, entry.tool, *cells]) + " |"


def run_once(entry: Entry, *, inputs: Inputs, limit_gb: float) -> Measurement:
    """Runs one entry in its own process."""
    directory = inputs.directory
    requests, answers = directory / "requests.json", directory / "answers.json"
    request = {
        "method": entry.method,
        "parameters": dict(entry.parameters),
        "base": str(inputs.base),
        "experts": [str(path) for path in inputs.experts],
        "out": str(output_of(entry.tool, inputs=inputs)),
    }
    requests.write_text(json.dumps([request]))
    cost = measure(
        [*COMMANDS[entry.tool], requests, answers], log=directory / "log.txt", limit_gb=limit_gb
    )
    answered: Mapping[str, object] = json.loads(answers.read_text())
    (error,) = answered["errors"]  # type: ignore[misc]
    if error is not None:
        raise ProcessFailedError(f"refused: {error}")
    return Measurement(cost=cost, cpu_after_imports_s=float(str(answered["cpu_s"])))


def output_of(tool: str, *, inputs: Inputs) -> Path:
    """Returns the path of an entry's merged model."""
    return inputs.directory / f"merged-{tool}.safetensors"


def figures(measured: Sequence[Measurement]) -> Iterator[str]:
    """Yields the cells of the costs: median and range of times, maximum of memory."""
    yield spread([each.cost.cpu_s for each in measured])
    yield spread([each.cpu_after_imports_s for each in measured])
    yield spread([each.cost.wall_s for each in measured])
    yield f"{max(each.cost.peak_anonymous_gb for each in measured):.2f}"
    yield f"{max(each.cost.peak_resident_gb for each in measured):.2f}"


def spread(values: Sequence[float]) -> str:
    """Returns median and range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} - {max(values):.2f})"


def agreement(entry: Entry, *, inputs: Inputs) -> str:
    """Returns how the merged weights differ from ours, or why they are not compared."""
    if entry.tool == "ours" or not entry.is_comparable:
        return entry.remark
    ours, theirs = output_of("ours", inputs=inputs), output_of(entry.tool, inputs=inputs)
    if not ours.exists():
        return "ours did not end"
    found = f"{compare(ours, theirs)}; {entry.remark}"
    return found.removesuffix("; ")


if __name__ == "__main__":
    main(sys.argv[1:])
