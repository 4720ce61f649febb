"""Counts at plan time are those of the images that workers then store and train on."""

from collections.abc import Callable

import numpy as np
import pytest

from eval.embedded.index import embedded_labels
from eval.suites import find_task
from orchestrator.plan.images_left import TaskImages, images_left
from orchestrator.plan.plan import Plan
from workers.sampling.batches import training_subset
from workers.sampling.data_selection import select_images

MakePlan = Callable[..., Plan]


def left_of(plan: Plan, task: str) -> TaskImages:
    return next(each for each in images_left(plan) if each.name == task)


@pytest.mark.parametrize("evaluate_on", ["test", "validation"])
def test_counts_are_those_of_the_selected_images(make_plan: MakePlan, evaluate_on: str) -> None:
    """After all limits, the counts are those of the labels that the selection keeps."""
    plan = make_plan(
        tasks={
            "names": ["font_letters", "mnist_5k"],
            "max_train": 100,
            "max_test": 30,
            "evaluate_on": evaluate_on,
        },
        finetune={
            "defaults": {"steps": 1, "lr": 0.1, "batch_size": 8},
            "axes": {"data_ratio": [0.1, 0.5, 1]},
        },
    )
    task, spec = find_task("font_letters"), plan.datasets[0]
    labels = embedded_labels(task)
    chosen = select_images({split: len(each) for split, each in labels.items()}, spec=spec)
    found = left_of(plan, task.name)
    for split, selection in chosen.items():
        expected = np.bincount(labels[selection.source][selection.positions], minlength=26)
        np.testing.assert_array_equal(found.stored[split][-1].per_class, expected)
    train = labels["train"][chosen["train"].positions]
    for ratio in (0.1, 0.5):
        kept = train[training_subset(100, data_ratio=ratio, seed=0)]
        assert found.trained_on[ratio].num_images == len(kept)
        np.testing.assert_array_equal(
            found.trained_on[ratio].per_class, np.bincount(kept, minlength=26)
        )


def test_each_limit_is_a_step_with_its_name(make_plan: MakePlan) -> None:
    """A split shrinks from limit to limit, so that a small class can be traced to its cause."""
    plan = make_plan(
        tasks={"names": ["mnist_5k", "mnist_m"], "max_train": 60, "evaluate_on": "validation"}
    )
    stored = left_of(plan, "mnist_5k").stored
    assert [(left.limit, left.num_images) for left in stored["train"]] == [
        ("", 4000),
        ("evaluate_on: validation", 3200),
        ("max_train: 60", 60),
    ]
    assert [(left.limit, left.num_images) for left in stored["test"]] == [
        ("evaluate_on: validation", 800)
    ]


def test_the_seed_with_the_most_empty_classes_counts(make_plan: MakePlan) -> None:
    """Where experts have several seeds, the counts are those of the worst one, which is named."""
    plan = make_plan(
        tasks={"names": ["font_letters", "mnist_5k"], "max_train": 120},
        finetune={
            "defaults": {"steps": 1, "lr": 0.1, "batch_size": 8},
            "design": "grid",
            "axes": {"data_ratio": [0.2], "seed": [0, 1, 2, 3]},
        },
    )
    found = left_of(plan, "font_letters").trained_on[0.2]
    labels = embedded_labels(find_task("font_letters"))
    sizes = {split: len(each) for split, each in labels.items()}
    chosen = select_images(sizes, spec=plan.datasets[0])
    train = labels["train"][chosen["train"].positions]
    num_classes = {
        seed: len(np.unique(train[training_subset(120, data_ratio=0.2, seed=seed)]))
        for seed in range(4)
    }
    worst = min(num_classes, key=num_classes.__getitem__)
    assert found.limit == f"data_ratio: 0.2, seed: {worst}"
    assert np.count_nonzero(found.per_class) == num_classes[worst]


def test_published_tasks_have_totals_alone(make_plan: MakePlan) -> None:
    """Without labels, the numbers of images are known and the counts by class are not."""
    plan = make_plan(tasks={"names": ["mnist", "dtd"], "max_train": 100})
    last = left_of(plan, "dtd").stored["train"][-1]
    assert (last.num_images, last.per_class) == (100, None)
