"""Counts the images of each task and class that a study's limits leave, before anything runs."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from eval.listed_data import list_data
from eval.tasks import Task
from orchestrator.plan.plan import Plan
from workers.sampling.batches import num_in_subset, training_order
from workers.sampling.data_selection import select_images
from workers.specs.data import DataSpec
from workers.specs.hyperparameters import Hyperparameters

SplitName = Literal["train", "test"]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class ImagesLeft:
    """The images that one limit leaves of a split."""

    limit: str
    """The limit as in the study file, `max_train: 20`; empty for all images of the split."""
    num_images: int
    per_class: Ints | None
    """Images of each class, (num_classes,); None if the labels are not known yet."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskImages:
    """The images of one task, after each limit of a study."""

    task: Task
    stored: Mapping[SplitName, tuple[ImagesLeft, ...]]
    """By split: the images without any limit, then after each limit. The last are stored."""
    trained_on: Mapping[float, ImagesLeft]
    """The training images of the experts, by data ratio, 1 first, then descending. If there are
    several seeds, the images are those of the seed that leaves the most classes empty."""
    batches: tuple[tuple[int, float], ...]
    """The distinct pairs of batch size and data ratio of the experts."""
    left_out: tuple[str, ...]
    """For each reason to leave files out, a text with their number and the reason."""
    remarks: tuple[str, ...]
    """Sentences about anything else in the files that a user should look at."""

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name


def images_left(plan: Plan) -> tuple[TaskImages, ...]:
    """Returns the images that are left of each task of a plan, in the plan's order.

    Counts are exact: the functions that select images for workers select them here. They take some
    0.1 s for a million images.
    """
    return tuple(_images_of(plan, spec=spec) for spec in plan.datasets)


def _images_of(plan: Plan, *, spec: DataSpec) -> TaskImages:
    source = plan.sources[spec.task]
    listed = list_data(source)
    train, train_labels = _stored(spec, split="train", task=source.task, labels=listed.labels)
    test, _ = _stored(spec, split="test", task=source.task, labels=listed.labels)
    points = {each.points[spec.task] for each in plan.settings if spec.task in each.points}
    num_classes = source.task.num_classes
    trained_on = _trained_on(points, stored=train[-1], labels=train_labels, classes=num_classes)
    return TaskImages(
        task=source.task,
        stored={"train": train, "test": test},
        trained_on=trained_on,
        batches=tuple(sorted({(point.batch_size, point.data_ratio) for point in points})),
        left_out=listed.left_out,
        remarks=listed.remarks,
    )


def _stored(
    spec: DataSpec, *, split: SplitName, task: Task, labels: Mapping[str, Ints] | None
) -> tuple[tuple[ImagesLeft, ...], Ints | None]:
    """Returns the images of a split after each limit, and the labels in the stored order."""
    left: list[ImagesLeft] = []
    stored = None
    for limit, limited in _limits(spec, split=split):
        sizes = {"train": task.num_train, "test": task.num_test}
        chosen = select_images(sizes, spec=limited)[split]
        stored = None if labels is None else labels[chosen.source][chosen.positions]
        per_class = None if stored is None else np.bincount(stored, minlength=task.num_classes)
        left.append(ImagesLeft(limit=limit, num_images=len(chosen.positions), per_class=per_class))
    return tuple(left), stored


def _limits(spec: DataSpec, *, split: SplitName) -> Iterator[tuple[str, DataSpec]]:
    """Yields the limits on a split in their order, as text and as a specification."""
    whole = replace(spec, max_train=None, max_test=None, max_validation=None, evaluate_on="test")
    is_held_out = spec.evaluate_on == "validation"
    if split == "train" or not is_held_out:
        yield "", whole
    if is_held_out:
        yield "evaluate_on: validation", replace(whole, evaluate_on="validation")
    if split == "train" and spec.max_validation is not None:
        limit = f"max_validation: {spec.max_validation}"
        yield limit, replace(spec, max_train=None, max_test=None)
    most = spec.max_train if split == "train" else spec.max_test
    if most is not None:
        yield f"max_{split}: {most}", spec


def _trained_on(
    points: Iterable[Hyperparameters], *, stored: ImagesLeft, labels: Ints | None, classes: int
) -> dict[float, ImagesLeft]:
    seeds: dict[float, list[int]] = {}
    for point in sorted(points, key=lambda each: (-each.data_ratio, each.seed)):
        if point.data_ratio < 1 and point.seed not in seeds.setdefault(point.data_ratio, []):
            seeds[point.data_ratio].append(point.seed)
    orders: dict[int, Ints] = {}
    if labels is not None:
        distinct = {seed for each in seeds.values() for seed in each}
        orders = {seed: labels[training_order(len(labels), seed=seed)] for seed in distinct}
    trained_on = {1.0: stored}
    for ratio, of_ratio in seeds.items():
        kept = num_in_subset(stored.num_images, data_ratio=ratio)
        counts = {
            seed: np.bincount(orders[seed][:kept], minlength=classes)
            for seed in of_ratio
            if seed in orders
        }
        worst = min(counts, key=lambda seed: np.count_nonzero(counts[seed]), default=None)
        trained_on[ratio] = ImagesLeft(
            limit=f"data_ratio: {ratio:g}" + (f", seed: {worst}" if len(counts) > 1 else ""),
            num_images=kept,
            per_class=None if worst is None else counts[worst],
        )
    return trained_on
