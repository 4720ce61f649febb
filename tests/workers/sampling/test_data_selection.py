from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from workers.sampling.data_selection import select_images
from workers.specs.data import DataSpec, EvaluateOn

SIZES = {"train": 100, "test": 40}


@pytest.fixture
def spec(datasets: Mapping[str, DataSpec]) -> DataSpec:
    """Returns the specification of all images of a task."""
    return replace(datasets["mnist_5k"], max_train=None, max_test=None)


def chosen(spec: DataSpec, split: str) -> list[tuple[str, int]]:
    """Returns the images of a split as pairs of source and position."""
    selection = select_images(SIZES, spec=spec)[split]
    return [(selection.source, position) for position in selection.positions.tolist()]


def test_splits_are_whole_without_limits(spec: DataSpec) -> None:
    """Without limits, a split has all images, shuffled."""
    for split, size in SIZES.items():
        assert sorted(chosen(spec, split)) == [(split, position) for position in range(size)]
        assert chosen(spec, split) != sorted(chosen(spec, split))


def test_validation_takes_the_last_fifth_of_training_and_no_test_image(spec: DataSpec) -> None:
    """Held-out images are neither test images nor images that experts are trained on."""
    held_out = replace(spec, evaluate_on="validation")
    whole = chosen(spec, "train")
    assert chosen(held_out, "train") == whole[:80]
    assert chosen(held_out, "test") == whole[80:]


def test_limits_on_validation_never_reach_into_training(spec: DataSpec) -> None:
    """A limit shortens each side, and does not move the boundary between them."""
    held_out = replace(spec, evaluate_on="validation", max_train=500, max_test=15)
    whole = chosen(spec, "train")
    assert chosen(held_out, "train") == whole[:80]
    assert chosen(held_out, "test") == whole[80:95]


@pytest.mark.parametrize("evaluate_on", ["test", "validation"])
def test_smaller_limits_are_nested(spec: DataSpec, evaluate_on: EvaluateOn) -> None:
    """A larger limit only adds images."""
    for split in ("train", "test"):
        sizes = [
            chosen(replace(spec, evaluate_on=evaluate_on, max_train=size, max_test=size), split)
            for size in (3, 10, 18)
        ]
        assert [len(size) for size in sizes] == [3, 10, 18]
        assert sizes[2][:10] == sizes[1]
        assert sizes[1][:3] == sizes[0]


def test_order_depends_on_task_and_split_alone(spec: DataSpec) -> None:
    """Another image size keeps the selection; another task changes it."""
    same = chosen(replace(spec, image_size=224), "train")
    other = chosen(replace(spec, task="mnist_m"), "train")
    assert same == chosen(spec, "train") != other
    train, test = (select_images({"train": 40, "test": 40}, spec=spec)[s] for s in SIZES)
    assert not np.array_equal(train.positions, test.positions)


@pytest.mark.parametrize("evaluate_on", ["test", "validation"])
def test_validation_images_are_in_no_other_split(spec: DataSpec, evaluate_on: EvaluateOn) -> None:
    """Training, validation and test images never overlap, whatever the limits are."""
    for limit in (None, 5, 500):
        limited = replace(
            spec, evaluate_on=evaluate_on, max_validation=15, max_train=limit, max_test=limit
        )
        splits = [set(chosen(limited, split)) for split in ("train", "validation", "test")]
        assert len(splits[1]) == 15
        assert len(set.union(*splits)) == sum(map(len, splits))


def test_validation_images_come_from_the_last_fifth_of_the_training_images(spec: DataSpec) -> None:
    """The limit shortens the fifth that is held out, and gives nothing back to training."""
    held_out = replace(spec, max_validation=15)
    whole = chosen(spec, "train")
    assert chosen(held_out, "train") == whole[:80]
    assert chosen(held_out, "validation") == whole[80:95]
    assert chosen(held_out, "test") == chosen(spec, "test")
    assert "validation" not in select_images(SIZES, spec=spec)
