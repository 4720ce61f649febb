"""Checks the smallest model of every family of timm, and prints the table of docs/models.md.

    python -m tests.benchmarks.timm_families [MODEL...] > table.md

Takes half an hour on two cores, most of it for finding the smallest models; with names of models,
it checks only these. Each check runs in a process of its own, with a time limit.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import timm
import torch

from workers.check.__main__ import report_on
from workers.check.building import RefusedError, build, own_size
from workers.check.report import Fault, ModelReport, ModelUse, StepKind

SMALL = 64
"""A study's default image size, in pixels."""
STEP = StepKind(batch_size=2, trains_batch_norm=False, linearised=False)
STEPS = (STEP, replace(STEP, linearised=True), replace(STEP, trains_batch_norm=True))
HEAD = (
    f"| family | smallest model | own size | at {SMALL} pixels | at its own size | linearised |",
    "| --- | --- | ---: | --- | --- | --- |",
)


def main(models: Sequence[str]) -> int:
    """Prints the table; returns the exit code."""
    print("\n".join(HEAD))  # noqa: T201 its output
    for family, model in rows(models):
        print(f"| `{family}` | `{model}` | {row(model)} |", flush=True)  # noqa: T201 as above
    return 0


def rows(models: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields the families with the models to check."""
    if models:
        yield from ((family_of(model), model) for model in models)
        return
    for family in timm.list_modules():
        if model := smallest(timm.list_models(module=family)):
            yield family, model


def family_of(model: str) -> str:
    """Returns timm's module of a model."""
    return timm.model_entrypoint(model).__module__.rpartition(".")[2]


def smallest(models: Sequence[str]) -> str | None:
    """Returns the model with the fewest weights among those that torch's meta device can build."""
    counts: dict[str, int] = {}
    for model in models:
        try:
            module = build(model, device=torch.device("meta")).module
        except RefusedError as error:
            print(f"{model}: {error}", file=sys.stderr)  # noqa: T201 progress
        else:
            counts[model] = sum(each.numel() for each in module.parameters())
    return min(counts, key=lambda model: counts[model], default=None)


def row(model: str) -> str:
    """Returns the cells of a model, after its name."""
    own = own_size(model)
    use = ModelUse(model=model, image_size=SMALL, weights=("file", "none"), steps=STEPS)
    small, at_own = report_on(use), report_on(replace(use, image_size=own))
    reports = (small, at_own) if usable(small) else (at_own,)
    is_linearised = all(not faults(each, "linearised") for each in reports)
    return f"{own} | {cell(small)} | {cell(at_own)} | {'yes' if is_linearised else 'no'}"


def cell(report: ModelReport) -> str:
    """Returns how a model takes a size."""
    if report.unchecked is not None:
        return f"not known: {report.unchecked}"
    if others := [each for each in report.faults if each.kind != "linearised"]:
        return f"no: {'; '.join(each.fault for each in others)}".replace("|", "\\|")
    return "built for it" if report.is_resized else "yes"


def usable(report: ModelReport) -> bool:
    """Returns whether a study can use a model at the size, linearised or not."""
    return report.unchecked is None and all(each.kind == "linearised" for each in report.faults)


def faults(report: ModelReport, kind: str) -> list[Fault]:
    """Returns the faults of a kind."""
    return [each for each in report.faults if each.kind == kind]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
