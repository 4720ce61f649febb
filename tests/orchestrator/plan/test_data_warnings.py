from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eval.tasks import Task
from orchestrator.plan.data_warnings import data_warnings
from orchestrator.plan.images_left import ImagesLeft, TaskImages, images_left


def left(limit: str, counts: Sequence[int] | None, *, num: int | None = None) -> ImagesLeft:
    per_class = None if counts is None else np.array(counts)
    return ImagesLeft(limit=limit, num_images=num or sum(counts or ()), per_class=per_class)


def warned(
    *,
    train: Sequence[ImagesLeft] = (left("", [50, 50, 50]),),
    test: Sequence[ImagesLeft] = (left("", [50, 50, 50]),),
    ratios: dict[float, ImagesLeft] | None = None,
    batches: tuple[tuple[int, float], ...] = (),
    classes: tuple[str, ...] = ("ash", "elm", "oak"),
) -> list[str]:
    task = Task(
        name="trees",
        classes=classes,
        num_train=0,
        num_test=0,
        channels=3,
        stands_in_for="itself",
        material="own",
        licence="",
        fingerprint="",
    )
    images = TaskImages(
        task=task,
        stored={"train": tuple(train), "test": tuple(test)},
        trained_on={1.0: train[-1], **(ratios or {})},
        batches=batches,
        left_out=(),
        remarks=(),
    )
    return [warning.text for warning in data_warnings([images])]


def test_large_tasks_are_not_warned_about() -> None:
    """Nothing is said where every class has images, and no batch is larger than the task."""
    assert warned(batches=((150, 1.0),)) == []


def test_a_limit_that_empties_classes_is_named() -> None:
    """The warning says which limit it is, which classes are empty and which are nearly so."""
    (warning,) = warned(train=(left("", [50, 60, 70]), left("max_train: 9", [0, 1, 8])))
    assert warning == (
        "trees: max_train: 9 leaves 1 of 3 classes without a training image (ash), and 1 with "
        "fewer than 5 (elm)"
    )


def test_a_small_class_is_blamed_on_the_first_cause_alone() -> None:
    """A class that the files leave small is not reported again at each further limit."""
    assert warned(
        train=(left("", [3, 60, 70]), left("evaluate_on: validation", [2, 48, 56])),
        test=(left("evaluate_on: validation", [1, 12, 14]),),
    ) == [
        "trees: its files have 1 of 3 classes with fewer than 5 training images (ash)",
        "trees: evaluate_on: validation leaves 1 of 3 classes with fewer than 3 test images (ash)",
    ]


def test_the_smallest_data_ratio_speaks_for_all() -> None:
    """One warning has the worst value of the axis, and names the others."""
    ratios = {
        0.5: left("data_ratio: 0.5", [25, 25, 25]),
        0.1: left("data_ratio: 0.1", [5, 4, 6]),
        0.01: left("data_ratio: 0.01", [0, 0, 2]),
    }
    (warning,) = warned(ratios=ratios)
    assert warning == (
        "trees: data_ratio: 0.01 leaves 2 of 3 classes without a training image (ash, elm), and 1 "
        "with fewer than 5 (oak); also some classes at 0.1"
    )


def test_totals_are_judged_where_labels_are_not_known() -> None:
    """Fewer images than classes leave some class empty, whatever the labels are."""
    train = (left("", None, num=500), left("max_train: 2", None, num=2))
    assert warned(
        train=train, test=(left("", None, num=500), left("max_test: 8", None, num=8))
    ) == [
        "trees: max_train: 2 leaves 2 training images for 3 classes: 1 or more have none",
        "trees: max_test: 8 leaves 8 test images for 3 classes: some have fewer than 3",
        "trees: 8 test images, so that each is 12% of its accuracy",
    ]


def test_a_batch_larger_than_the_task_is_named_with_its_ratio() -> None:
    """The pair of batch size and data ratio that repeats images most often is named."""
    ratios = {0.5: left("data_ratio: 0.5", [25, 25, 25])}
    (warning,) = warned(ratios=ratios, batches=((64, 0.5), (128, 0.5), (160, 1.0)))
    assert warning == (
        "trees: batch_size: 128 is more than the 75 training images at data_ratio: 0.5: every step "
        "repeats some"
    )


def test_alike_class_names_are_shown_so_that_they_differ() -> None:
    """Names that look the same on a terminal are escaped."""
    assert warned(classes=("elm", "\u0435lm", "oak")) == [
        "trees: class names look alike: 'elm' and '\\u0435lm'"
    ]


def test_two_tasks_of_the_same_files_are_named(
    make_plan: Callable[..., Any], tmp_path: Path
) -> None:
    """A path that was copied from one task to the next makes a merge of a task with itself."""
    for split in ("train", "test"):
        for value, label in enumerate(("ash", "elm")):
            path = tmp_path / "trees" / split / label / "0.png"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (5, 5), (value, 0, 0)).save(path)
    own = {name: {"folder": str(tmp_path / "trees")} for name in ("oaks", "elms")}
    plan = make_plan(tasks={"names": ["mnist_5k"], "own": own})
    first = min(data_warnings(images_left(plan)), key=lambda warning: warning.rank)
    assert first.text == "elms and oaks: they are one task, with the same images and labels"
