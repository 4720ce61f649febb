"""Settings: the points of the hyperparameter space that a study visits."""

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from orchestrator.study.backbone import BackboneSection
from orchestrator.study.finetune import Finetune
from workers.sampling.seeds import derive_seed
from workers.specs.hyperparameters import Hyperparameters

DEFAULT_AXIS = "default"
NUM_TASKS_AXIS = "num_tasks"


@dataclass(frozen=True, kw_only=True)
class BasePoint:
    """Which base the experts of a setting start from."""

    model: str
    weights: str
    """Where they come from, as written in the study."""
    pretrain_steps: int
    """Steps of the study's own pretraining; 0 for none."""


_BASE_FIELDS = {field.name for field in fields(BasePoint)}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One value on one axis, and the point at which each task's expert is made."""

    axis: str
    value: str
    points: Mapping[str, Hyperparameters]
    """By task; all equal except in the random design."""
    base: BasePoint
    """One for all tasks: experts of different bases cannot be merged."""
    size: int | None = None
    """Tasks per group on the number-of-tasks axis; None for the study's one size."""

    @property
    def name(self) -> str:
        """How the setting is written: `lr=0.001`."""
        return self.value if self.axis in ("grid", DEFAULT_AXIS) else f"{self.axis}={self.value}"

    @property
    def shared_point(self) -> Hyperparameters | None:
        """The point that all experts have in common; None where they differ."""
        points = set(self.points.values())
        return points.pop() if len(points) == 1 else None


def plan_settings(
    finetune: Finetune,
    *,
    backbone: BackboneSection,
    tasks: Sequence[str],
    sizes: Sequence[int],
    seed: int,
) -> tuple[Setting, ...]:
    """Lays out the study's settings, in the order in which they run.

    One factor at a time: every value of every axis, the other hyperparameters at their defaults;
    the axes of the base come last. In a grid they are axes like others.
    A study without axes has the single setting `default`. The number-of-tasks axis stands at the
    default point, in every design but the random one, where it stands at the first draw.
    """
    default = finetune.default_point
    origin = Setting(
        axis=DEFAULT_AXIS,
        value=DEFAULT_AXIS,
        points=_same(default, tasks),
        base=_default_base(backbone),
    )
    settings = _design(finetune, backbone=backbone, origin=origin, default=default, seed=seed)
    of_sizes = settings[0] if finetune.design == "random" else origin
    by_size = [replace(of_sizes, axis=NUM_TASKS_AXIS, value=str(size), size=size) for size in sizes]
    if settings == [origin] and by_size:
        return tuple(by_size)
    return (*settings, *by_size)


def _design(
    finetune: Finetune,
    *,
    backbone: BackboneSection,
    origin: Setting,
    default: Hyperparameters,
    seed: int,
) -> list[Setting]:
    axes, base_axes = finetune.axes.varied(), backbone.axes.varied()
    if finetune.design == "random":
        return [
            _draw(draw, origin=origin, default=default, axes=axes, seed=seed)
            for draw in range(finetune.draws)
        ]
    if finetune.design == "grid":
        return [
            _at(origin, backbone=backbone, default=default, values=values)
            for values in _combine({**base_axes, **axes})  # a base's settings follow one another
        ]
    settings = [
        replace(
            _at(origin, backbone=backbone, default=default, values={axis: value}),
            axis=axis,
            value=value_text(value),
        )
        for axis, values in {**axes, **base_axes}.items()
        for value in values
    ]
    return settings or [origin]


def value_text(value: object) -> str:
    """Returns a value of an axis as the study file writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _combine(axes: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _at(
    origin: Setting,
    *,
    backbone: BackboneSection,
    default: Hyperparameters,
    values: Mapping[str, Any],
) -> Setting:
    """Returns the setting at some values, named as a point of a grid."""
    of_base = {name: value for name, value in values.items() if name in _BASE_FIELDS}
    of_point = {name: value for name, value in values.items() if name not in _BASE_FIELDS}
    return replace(
        origin,
        axis="grid",
        value=", ".join(f"{axis}={value_text(value)}" for axis, value in values.items()),
        points=_same(replace(default, **of_point), origin.points),
        base=_moved_base(origin.base, backbone=backbone, values=of_base),
    )


def _default_base(backbone: BackboneSection) -> BasePoint:
    return BasePoint(
        model=backbone.model,
        weights=backbone.weights_of(backbone.model),
        pretrain_steps=0 if backbone.pretrain is None else backbone.pretrain.steps,
    )


def _moved_base(
    default: BasePoint, *, backbone: BackboneSection, values: Mapping[str, Any]
) -> BasePoint:
    model = values.get("model", default.model)
    return replace(default, **{"weights": backbone.weights_of(model), **values})


def _draw(
    draw: int,
    *,
    origin: Setting,
    default: Hyperparameters,
    axes: Mapping[str, list[Any]],
    seed: int,
) -> Setting:
    points = {}
    for task in origin.points:
        generator = random.Random(derive_seed(seed, "draw", draw, task))  # noqa: S311 not secret
        drawn = {
            axis: values[int(generator.random() * len(values))] for axis, values in axes.items()
        }
        points[task] = replace(default, **drawn)
    return replace(origin, axis="random", value=str(draw), points=points)


def _same(point: Hyperparameters, tasks: Iterable[str]) -> dict[str, Hyperparameters]:
    return dict.fromkeys(tasks, point)
