"""Formats a line for each seed and a table of all faults."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from disturbance import Injected
from faults import KINDS

_NAMES = {
    "worker": "worker process",
    "node": "node (raylet and its workers)",
    "driver": "driver",
    "head": "head node, and with it the cluster",
    "s3": "S3 server",
    "mlflow": "MLflow server",
}


@dataclass(frozen=True, kw_only=True)
class SeedResult:
    """The result of one seed."""

    seed: int
    injected: Sequence[Injected]
    num_drivers: int
    seconds: float
    problem: str = ""
    """The failed check; empty if all checks hold."""


def seed_line(result: SeedResult) -> str:
    """Returns the line of a seed."""
    kinds = Counter(each.fault.kind for each in result.injected)
    faults = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items())) or "none"
    verdict = f"FAILED: {result.problem}" if result.problem else "same bytes, nothing lost"
    return (
        f"seed {result.seed}: {verdict}; {len(result.injected)} faults ({faults}), "
        f"driver started {result.num_drivers} times, {result.seconds:.0f} s"
    )


def table(results: Sequence[SeedResult], *, undisturbed_s: float) -> str:
    """Returns the markdown table of all seeds."""
    injected = [each for result in results for each in result.injected]
    lines = [
        "| killed with signal 9 | times | amid checkpoints | the run went on | run again |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for kind in KINDS:
        of_kind = [each for each in injected if each.fault.kind == kind]
        num_went_on = sum(each.driver_exit is None for each in of_kind)
        num_amid = sum(each.num_checkpoints > 0 for each in of_kind)
        counts = (len(of_kind), num_amid, num_went_on, len(of_kind) - num_went_on)
        lines.append(f"| {_NAMES[kind]} | {' | '.join(map(str, counts))} |")
    num_same = sum(not result.problem for result in results)
    num_drivers = sum(result.num_drivers for result in results)
    seconds = sorted(result.seconds for result in results)
    span = f"{seconds[0]:.0f} to {seconds[-1]:.0f} s" if seconds else "-"
    verdict = (
        f"{num_same} of {len(results)} seeds ended with the same bytes and nothing lost; "
        f"{len(injected)} faults, driver started {num_drivers} times; "
        f"{span} a seed, {undisturbed_s:.0f} s undisturbed."
    )
    return "\n".join([*lines, "", verdict])
