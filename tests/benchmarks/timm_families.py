"""Checks the smallest model of every family of timm, and prints the table of docs/models.md.

    python tests/benchmarks/timm_families.py [MODEL...] > table.md

Takes half an hour on two cores, some of it for finding the smallest models; with names of models,
it checks only these. Each check runs in a process of its own, with a time limit.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import timm
import torch

from workers.check.__main__ import report_on
from workers.check.building import RefusedError, build, own_size
from workers.check.report import ModelReport, ModelUse, StepKind

SMALL = 64
"""A study's default image size, in pixels."""
STEP = StepKind(batch_size=2, trains_batch_norm=False, linearised=False)
STEPS = (STEP, replace(STEP, linearised=True), replace(STEP, trains_batch_norm=True))
BRIEF = {
    r"^timm cannot interpolate .*(size mismatch for [\w.]+).*": r"\1",
    r"^\S+ takes no images of \d+ pixels \((.*)\)$": r"\1",
    r"^the weights of \S+ (cannot be stored and merged): (.*)": r"\1: \2",
    r"^\S+ cannot be linearised \((.*)\)$": r"not linearised: \1",
    r"^\S+ (at \d+ px crashes) with torch \S+ on this machine": r"\1",
}
"""Texts by the patterns that they replace."""
MAX_CHARS = 90
HEAD = (
    f"| family | smallest model | own size | at {SMALL} px | at its own | linearised | reasons |",
    "| --- | --- | ---: | --- | --- | --- | --- |",
)


def main(models: Sequence[str]) -> int:
    """Prints the table; returns the exit code."""
    print("\n".join(HEAD))  # noqa: T201 its output
    for family, model in rows(models):
        print(f"| `{family}` | `{model}` | {cells(model)} |", flush=True)  # noqa: T201 as above
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
    """Returns the model with the fewest weights; timm's own test models do not count."""
    counts: dict[str, int] = {}
    for model in models:
        if model.startswith("test_"):
            continue
        try:
            module = build(model, device=torch.device("meta")).module
        except RefusedError as error:
            print(f"{model}: {error}", file=sys.stderr)  # noqa: T201 progress
        else:
            counts[model] = sum(each.numel() for each in module.parameters())
    return min(counts, key=lambda model: counts[model], default=None)


def cells(model: str) -> str:
    """Returns the cells of a model, after its name."""
    own = own_size(model)
    use = ModelUse(model=model, image_size=SMALL, weights=("elsewhere", "none"), steps=STEPS)
    reports = [report_on(use), report_on(replace(use, image_size=own))]
    is_linearised = not any("linearised" in reasons_of(each) for each in reports)
    reasons = {brief(text) for each in reports for text in reasons_of(each).values()}
    return " | ".join(
        (
            str(own),
            *(outcome(each) for each in reports),
            "yes" if is_linearised else "no",
            "; ".join(sorted(reasons)).replace("|", "\\|"),
        )
    )


def brief(text: str) -> str:
    """Returns a fault without the parts that the row says already."""
    for pattern, short in BRIEF.items():
        text = re.sub(pattern, short, text)
    return text if len(text) <= MAX_CHARS else f"{text[: MAX_CHARS - 3]}..."


def outcome(report: ModelReport) -> str:
    """Returns how a model takes a size: in one or two words."""
    kinds = reasons_of(report).keys() - {"linearised"}
    if kinds == {"resizing"}:
        return "random weights only"
    if kinds:
        return "not known" if kinds == {"unchecked"} else "no"
    return "built for it" if report.is_resized else "yes"


def reasons_of(report: ModelReport) -> dict[str, str]:
    """Returns the faults of a model by kind."""
    found = {fault.kind: fault.fault for fault in report.faults}
    return found if report.unchecked is None else {**found, "unchecked": report.unchecked}


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
