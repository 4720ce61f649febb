from itertools import pairwise

import numpy as np
import pytest

from eval.images.split import Split

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (23, 4, 5, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 9, 23)


def cut_at(*stops: int) -> Split:
    """Returns the images in shards that end at the given positions."""
    shards = [IMAGES[start:stop] for start, stop in pairwise((0, *stops, len(IMAGES)))]
    return Split(images=shards, labels=LABELS)


CUTS = [cut_at(), cut_at(10), cut_at(8, 16), cut_at(1, 2, 22)]
cuts = pytest.mark.parametrize("split", CUTS, ids=["one", "two", "equal", "uneven"])


def same(split: Split, chosen: slice | list[int]) -> bool:
    return np.array_equal(split.images, IMAGES[chosen]) and np.array_equal(
        split.labels, LABELS[chosen]
    )


@cuts
def test_any_rows_are_those_of_the_whole(split: Split) -> None:
    """Rows equal a slice for every start and stop, also past the end, and rows of rows too."""
    for start in range(len(IMAGES) + 1):
        for stop in range(start, len(IMAGES) + 3):
            rows = split.rows(start, stop)
            assert same(rows, slice(start, stop))
            assert same(rows.rows(1, 4), [*range(len(IMAGES))][start:stop][1:4])


@cuts
def test_taken_images_are_those_of_the_whole(split: Split) -> None:
    """The order is the requested one; repeated positions and none at all work too."""
    for positions in ([22, 0, 5, 5, 16, 8, 7], [3], []):
        assert same(split.take(np.array(positions, dtype=np.int64)), positions)


@cuts
def test_batches_are_the_whole_in_its_order(split: Split) -> None:
    """The last batch has the remaining images."""
    batches = list(split.batches(7))
    assert [len(batch) for batch in batches] == [7, 7, 7, 2]
    np.testing.assert_array_equal(np.concatenate([b.images for b in batches]), IMAGES)
    np.testing.assert_array_equal(np.concatenate([b.labels for b in batches]), LABELS)


@cuts
def test_single_images_are_those_of_the_whole(split: Split) -> None:
    """A split is an image source over its own images."""
    for index in range(len(IMAGES)):
        np.testing.assert_array_equal(split.image(index), IMAGES[index])


@cuts
def test_rows_copy_nothing(split: Split) -> None:
    """The pixels of any part of a split are shared with the whole."""
    rows = split.rows(2, 21)
    assert all(np.shares_memory(shard, IMAGES) for shard in rows._shards)


def test_batch_inside_a_shard_is_a_view() -> None:
    """Only a batch that spans two shards is copied."""
    batches = list(cut_at(10).batches(4))
    assert [batch.images.base is not None for batch in batches] == [True, True, False] + [True] * 3


def test_labels_of_another_number_are_no_split() -> None:
    """Images without labels are an error of the caller."""
    with pytest.raises(AssertionError, match="23 images, 22 labels"):
        Split(images=IMAGES, labels=LABELS[1:])
