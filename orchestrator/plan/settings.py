"""Lays out a study's settings: the points of the hyperparameter space that the study visits."""

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from orchestrator.study.backbone import BackboneSection
from orchestrator.study.finetune import Finetune
from orchestrator.study.schema import POOL_AXES, PoolKind
from workers.sampling.seeds import derive_seed
from workers.specs.hyperparameters import Hyperparameters

DEFAULT_AXIS = "default"
NUM_TASKS_AXIS = "num_tasks"


@dataclass(frozen=True, kw_only=True)
class BasePoint:
    """The values that select one of a study's bases."""

    model: str
    weights: str
    """Source of the weights, as written in the study."""
    pretrain_steps: int
    """Steps of the study's own pretraining; 0 for none."""


_BASE_FIELDS = {field.name for field in fields(BasePoint)}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One value on one axis, with the hyperparameters of each task's expert."""

    axis: str
    """Name of the axis, or `default`, `grid`, `random`, `num_tasks`, `candidate` or that of a
    pool."""
    value: str
    """The value as text: `0.001`; in a grid, the values of all axes."""
    points: Mapping[str, Hyperparameters]
    """By task; equal for all tasks except in the random design."""
    base: BasePoint
    """The base of all tasks, because experts of different bases cannot be merged."""
    size: int | None = None
    """Tasks per group on the number-of-tasks axis; None for the study's `groups.size`."""
    pool: int | None = None
    """Experts per merge on the axis of a pool; None elsewhere: those of the group."""
    extra: PoolKind | None = None
    """The further experts of a pool; None off its axes."""

    @property
    def name(self) -> str:
        """The setting's name in tables: `lr=0.001`."""
        return self.value if self.axis in ("grid", DEFAULT_AXIS) else f"{self.axis}={self.value}"

    @property
    def shared_point(self) -> Hyperparameters | None:
        """The hyperparameters of all experts; None if the experts differ."""
        points = set(self.points.values())
        return points.pop() if len(points) == 1 else None


def plan_settings(
    finetune: Finetune,
    *,
    backbone: BackboneSection,
    tasks: Sequence[str],
    sizes: Sequence[int],
    seed: int,
    pools: Mapping[PoolKind, Sequence[int]] | None = None,
) -> tuple[Setting, ...]:
    """Returns a study's settings in the order in which they run.

    One-factor design: every value of every axis, with the other hyperparameters at their defaults.
    The axes of the base come last, so that a worker changes its model rarely. Grid: every
    combination. Random design: one setting per draw. Listed design: one setting per point. A study
    without axes has the single setting `default`. The number-of-tasks axis follows, then those of
    pools, at the default hyperparameters, or at the first draw of the random design.

    Args:
        finetune: The section with hyperparameters, axes and design.
        backbone: The section with the base.
        tasks: The study's tasks.
        sizes: The values of the number-of-tasks axis.
        seed: The study's seed.
        pools: The numbers of merged experts, by the kind of further experts.
    """
    default = finetune.default_point
    origin = origin_of(finetune, backbone=backbone, tasks=tasks)
    settings = _design(finetune, backbone=backbone, origin=origin, default=default, seed=seed)
    at = settings[0] if finetune.design == "random" else origin
    by_size = [replace(at, axis=NUM_TASKS_AXIS, value=str(size), size=size) for size in sizes]
    by_pool = [
        replace(at, axis=POOL_AXES[extra], value=str(pool), pool=pool, extra=extra)
        for extra, numbers in (pools or {}).items()
        for pool in numbers
    ]
    further = (*by_size, *by_pool)
    return further if settings == [origin] and further else (*settings, *further)


def origin_of(finetune: Finetune, *, backbone: BackboneSection, tasks: Sequence[str]) -> Setting:
    """Returns the setting at the defaults, which all others are moved from."""
    return Setting(
        axis=DEFAULT_AXIS,
        value=DEFAULT_AXIS,
        points=_same_for_all(finetune.default_point, tasks),
        base=_default_base(backbone),
    )


def has_defaults(setting: Setting, *, origin: Setting, size: int) -> bool:
    """Returns whether every axis has its default value at a setting.

    Args:
        setting: A setting of the study.
        origin: The setting at the defaults.
        size: The study's `groups.size`, which is the default of the axes of sizes and pools.
    """
    is_moved = (setting.points, setting.base) != (origin.points, origin.base)
    return not is_moved and {setting.size, setting.pool} <= {None, size}


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
            _drawn(draw, origin=origin, default=default, axes=axes, seed=seed)
            for draw in range(finetune.draws)
        ]
    if finetune.design == "listed":
        return [
            _moved(origin, backbone=backbone, default=default, values=point)
            for point in finetune.points
        ]
    if finetune.design == "grid":
        return [
            _moved(origin, backbone=backbone, default=default, values=values)
            for values in _combinations({**base_axes, **axes})  # all settings of a base in a row
        ]
    settings = [
        replace(
            _moved(origin, backbone=backbone, default=default, values={axis: value}),
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


def _combinations(axes: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _moved(
    origin: Setting,
    *,
    backbone: BackboneSection,
    default: Hyperparameters,
    values: Mapping[str, Any],
) -> Setting:
    """Returns the setting with some values in place of the defaults, named as a grid's."""
    of_base = {name: value for name, value in values.items() if name in _BASE_FIELDS}
    of_point = {name: value for name, value in values.items() if name not in _BASE_FIELDS}
    return replace(
        origin,
        axis="grid",
        value=", ".join(f"{axis}={value_text(value)}" for axis, value in values.items()),
        points=_same_for_all(replace(default, **of_point), origin.points),
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


def _drawn(
    draw: int,
    *,
    origin: Setting,
    default: Hyperparameters,
    axes: Mapping[str, list[Any]],
    seed: int,
) -> Setting:
    """Returns a setting of the random design.

    A task's point depends on the seed, the draw and the task alone. Further tasks or draws
    therefore leave earlier points as they are.
    """
    points = {}
    for task in origin.points:
        generator = random.Random(derive_seed(seed, "draw", draw, task))  # noqa: S311 not secret
        values = {axis: each[int(generator.random() * len(each))] for axis, each in axes.items()}
        points[task] = replace(default, **values)
    return replace(origin, axis="random", value=str(draw), points=points)


def _same_for_all(point: Hyperparameters, tasks: Iterable[str]) -> dict[str, Hyperparameters]:
    return dict.fromkeys(tasks, point)
