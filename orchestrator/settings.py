"""Settings: the points of the hyperparameter space that a study visits."""

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from orchestrator.study import Finetune
from workers.seeds import derive_seed
from workers.specs import Augmentation, Averaging, HeadMode, OptimizerName, Schedule

DEFAULT_AXIS = "default"
NUM_TASKS_AXIS = "num_tasks"


@dataclass(frozen=True, kw_only=True)
class Point:
    """The hyperparameters of one fine-tuning run."""

    steps: int
    batch_size: int
    lr: float
    data_ratio: float
    seed: int
    optimizer: OptimizerName
    weight_decay: float
    sam_rho: float
    schedule: Schedule
    warmup_steps: int
    head: HeadMode
    average_weights: Averaging
    ema_decay: float
    """Without effect unless `average_weights` is `ema`."""
    swa_start: float
    """Without effect unless `average_weights` is `swa`."""
    augment: Augmentation
    linearised: bool


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One value on one axis, and the point at which each task's expert is made."""

    axis: str
    value: str
    points: Mapping[str, Point]
    """By task; all equal except in the random design."""
    size: int | None = None
    """Tasks per group on the number-of-tasks axis; None for the study's one size."""

    @property
    def name(self) -> str:
        """How the setting is written: `lr=0.001`."""
        return self.value if self.axis in ("grid", DEFAULT_AXIS) else f"{self.axis}={self.value}"

    @property
    def shared_point(self) -> Point | None:
        """The point that all experts have in common; None where they differ."""
        points = set(self.points.values())
        return points.pop() if len(points) == 1 else None


def default_point(finetune: Finetune) -> Point:
    """Returns the point that axes vary around."""
    return Point(
        **finetune.defaults.model_dump(),
        optimizer=finetune.optimizer.name,
        weight_decay=finetune.optimizer.weight_decay,
        sam_rho=finetune.optimizer.sam_rho,
        schedule=finetune.schedule,
        warmup_steps=finetune.warmup_steps,
        head=finetune.head.mode,
        average_weights=finetune.average_weights.mode,
        ema_decay=finetune.average_weights.ema_decay,
        swa_start=finetune.average_weights.swa_start,
        augment=finetune.augment,
        linearised=finetune.linearised,
    )


def plan_settings(
    finetune: Finetune, *, tasks: Sequence[str], sizes: Sequence[int], seed: int
) -> tuple[Setting, ...]:
    """Lays out the study's settings, in the order in which they run.

    One factor at a time: every value of every axis, the other hyperparameters at their defaults.
    A study without axes has the single setting `default`. The number-of-tasks axis stands at the
    default point, in every design but the random one, where it stands at the first draw.
    """
    default = default_point(finetune)
    axes = finetune.axes.varied()
    settings = _design(finetune, default=default, axes=axes, tasks=tasks, seed=seed)
    at_default = settings[0].points if finetune.design == "random" else _same(default, tasks)
    by_size = [
        Setting(axis=NUM_TASKS_AXIS, value=str(size), points=at_default, size=size)
        for size in sizes
    ]
    if not axes and by_size:
        return tuple(by_size)
    return (*settings, *by_size)


def _design(
    finetune: Finetune,
    *,
    default: Point,
    axes: Mapping[str, list[Any]],
    tasks: Sequence[str],
    seed: int,
) -> list[Setting]:
    if finetune.design == "random":
        return [
            _draw(draw, default=default, axes=axes, tasks=tasks, seed=seed)
            for draw in range(finetune.draws)
        ]
    if not axes:
        return [Setting(axis=DEFAULT_AXIS, value=DEFAULT_AXIS, points=_same(default, tasks))]
    if finetune.design == "grid":
        return [_grid_setting(values, default=default, tasks=tasks) for values in _combine(axes)]
    return [
        Setting(
            axis=axis, value=value_text(value), points=_same(_at(default, {axis: value}), tasks)
        )
        for axis, values in axes.items()
        for value in values
    ]


def value_text(value: object) -> str:
    """Returns a value of an axis as the study file writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _combine(axes: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _grid_setting(values: Mapping[str, Any], *, default: Point, tasks: Sequence[str]) -> Setting:
    name = ", ".join(f"{axis}={value_text(value)}" for axis, value in values.items())
    return Setting(axis="grid", value=name, points=_same(_at(default, values), tasks))


def _draw(
    draw: int,
    *,
    default: Point,
    axes: Mapping[str, list[Any]],
    tasks: Sequence[str],
    seed: int,
) -> Setting:
    points = {}
    for task in tasks:
        generator = random.Random(derive_seed(seed, "draw", draw, task))  # noqa: S311 not secret
        drawn = {
            axis: values[int(generator.random() * len(values))] for axis, values in axes.items()
        }
        points[task] = _at(default, drawn)
    return Setting(axis="random", value=str(draw), points=points)


def _at(default: Point, values: Mapping[str, Any]) -> Point:
    typed = {name: type(asdict(default)[name])(value) for name, value in values.items()}
    return replace(default, **typed)


def _same(point: Point, tasks: Sequence[str]) -> dict[str, Point]:
    return dict.fromkeys(tasks, point)
