"""Checks a study whose experts are LoRA adapters."""

import importlib.util
from collections.abc import Iterator

from orchestrator.study.checks.points import points
from orchestrator.study.finetune import Finetune
from orchestrator.study.problems import StudyProblem, wrong_value

PACKAGE = "peft"
"""Import name of the package that every node needs."""

_EXCLUDED = {
    "linearised": (False, "the expansion is in the weights themselves, which adapters leave alone"),
    "average_weights": ("none", "a mean of the products of adapters is no adapter of their rank"),
}
"""Hyperparameters that exclude adapters, with the value that switches each off, and the reason."""


def has_adapters(finetune: Finetune) -> bool:
    """Returns whether some experts of a study are trained as adapters."""
    return any(point["lora_rank"] > 0 for point in points(finetune, "lora_rank"))


def check_lora(finetune: Finetune) -> Iterator[StudyProblem]:
    """Yields LoRA fields without an effect, a missing package, and fields that adapters exclude."""
    yield from _without_effect(finetune)
    if not has_adapters(finetune):
        return
    field = _field_of_rank(finetune)
    if importlib.util.find_spec(PACKAGE) is None:
        yield StudyProblem(
            field=field,
            fault=f"training adapters needs the package {PACKAGE}, here and on every node",
            remedy='run: pip install "mergesweep[lora]"',
        )
    if not finetune.freeze_batch_norm:
        remedy = "an adapter has no BatchNorm statistics, so those of the base stay; expected true"
        yield wrong_value("finetune.freeze_batch_norm", value=False, remedy=remedy)
    for name, (off, reason) in _EXCLUDED.items():
        found = points(finetune, "lora_rank", name)
        if any(point["lora_rank"] > 0 and point[name] != off for point in found):
            yield StudyProblem(
                field=field,
                fault=f"some experts have adapters and `{name}`: {reason}",
                remedy="leave out one of the two",
            )


def _without_effect(finetune: Finetune) -> Iterator[StudyProblem]:
    """Yields alphas and targets that would not change any expert."""
    for name in ("alpha", "targets"):
        hyperparameter = f"lora_{name}"
        default = getattr(finetune.default_point, hyperparameter)
        found = list(points(finetune, "lora_rank", hyperparameter))
        others = [each for each in found if each[hyperparameter] != default]
        if hyperparameter in finetune.varied() and not any(each["lora_rank"] for each in others):
            yield StudyProblem(
                field="finetune.points" if finetune.points else f"finetune.axes.{hyperparameter}",
                fault=f"no expert with another {hyperparameter} has adapters",
                remedy="give finetune.lora.rank, or vary lora_rank beside it in a grid",
            )
        is_written = name in finetune.lora.model_fields_set
        if is_written and not any(each["lora_rank"] for each in found):
            yield wrong_value(
                f"finetune.lora.{name}",
                getattr(finetune.lora, name),
                remedy="no expert has adapters; give finetune.lora.rank or finetune.axes.lora_rank",
            )


def _field_of_rank(finetune: Finetune) -> str:
    if finetune.lora.rank > 0:
        return "finetune.lora.rank"
    return "finetune.points" if finetune.points else "finetune.axes.lora_rank"


def node_packages(finetune: Finetune) -> tuple[str, ...]:
    """Returns the import names of the optional packages that every node of a study needs."""
    return (PACKAGE,) if has_adapters(finetune) else ()


def fields_of_targets(finetune: Finetune) -> dict[str, tuple[str, ...]]:
    """Returns the targets of a study's adapters, each with the fields to change."""
    fields: dict[str, dict[str, None]] = {}
    for point in points(finetune, "lora_rank", "lora_targets"):
        if point["lora_rank"] > 0:
            fields.setdefault(point["lora_targets"], {}).update(
                dict.fromkeys(_naming(finetune, point["lora_targets"]))
            )
    return {targets: tuple(names) for targets, names in fields.items()}


def _naming(finetune: Finetune, targets: str) -> Iterator[str]:
    if finetune.lora.targets == targets:
        yield "finetune.lora.targets"
    if targets in finetune.axes.lora_targets:
        yield f"finetune.axes.lora_targets[{finetune.axes.lora_targets.index(targets)}]"
    if any(point.get("lora_targets") == targets for point in finetune.points):
        yield "finetune.points"
