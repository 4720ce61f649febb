from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from eval.images.decoding import resized
from eval.images.protocol import ImageSourceError
from workers.prepare.duplicates import Duplicates, digests_of, find_duplicates
from workers.sampling.data_selection import Selection

SIZE = 4


@dataclass(kw_only=True)
class Source:
    """Images of any sizes, which count how often they are decoded."""

    images: Sequence[np.ndarray]
    labels: np.ndarray
    asked: list[int] = field(default_factory=list)

    def image(self, index: int) -> np.ndarray:
        """Returns an image."""
        self.asked.append(index)
        return self.images[index]

    def name(self, index: int) -> str:
        """Returns the position."""
        return str(index)


def picture(seed: int, *, side: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def source(images: Sequence[np.ndarray], labels: Sequence[int] | None = None) -> Source:
    return Source(images=images, labels=np.array(labels or [0] * len(images)))


def found(
    train: Source,
    test: Source,
    *,
    chosen: dict[str, list[int]] | None = None,
) -> Duplicates:
    sources = {"train": train, "test": test}
    selections = {
        split: Selection(
            source=split,
            positions=np.array(chosen[split] if chosen else range(len(each.images))),
        )
        for split, each in sources.items()
    }
    stored = {
        split: digests_of(
            np.stack(
                [
                    resized(sources[split].images[i], image_size=SIZE, channels=3)
                    for i in each.positions
                ]
            )
        )
        for split, each in selections.items()
    }
    return find_duplicates(sources, selections=selections, resized=stored, num_threads=2)


def test_images_of_both_splits_are_counted_and_named() -> None:
    """Each test image counts once, however often training has it."""
    train = source([picture(0), picture(1), picture(2), picture(1)])
    test = source([picture(9), picture(1), picture(1), picture(2)])
    shared = found(train, test).shared
    assert shared.num_images == 3
    assert shared.first == (("1", "1"), ("1", "2"), ("2", "3"))


def test_one_image_with_two_labels_is_a_contradiction() -> None:
    """Copies under one label are none; images of the test split do not count."""
    train = source([picture(seed) for seed in (0, 0, 1, 1, 1, 2)], [0, 0, 0, 0, 1, 1])
    test = source([picture(2), picture(5)], [0, 0])
    assert found(train, test).contradictions.first == (("2", "4"),)
    assert found(train, test).contradictions.num_images == 3


def test_images_that_differ_before_they_are_resized_are_not_equal() -> None:
    """Margins that the crop removes, and sizes, make a difference; only suspects are decoded."""
    wide = np.concatenate([picture(0), picture(0)], axis=1)
    other = wide.copy()
    other[0, 0] ^= 255  # left of the middle square
    flat = [np.full((side, side, 3), 7, dtype=np.uint8) for side in (8, 16)]
    train, test = source([wide, flat[0], picture(3)]), source([other, flat[1], picture(4)])
    duplicates = found(train, test)
    assert duplicates.shared.num_images == duplicates.contradictions.num_images == 0
    assert (sorted(train.asked), sorted(test.asked)) == ([0, 1], [0, 1])


def test_images_that_are_not_stored_do_not_count() -> None:
    """The limits of a study leave duplicates out too, and the order is that of the files."""
    train = source([picture(0), picture(1), picture(2)])
    test = source([picture(2), picture(1), picture(0)])
    kept = found(train, test, chosen={"train": [2, 0], "test": [2, 1, 0]})
    assert kept.shared.first == (("0", "2"), ("2", "0"))


def test_many_pairs_are_counted_and_the_first_are_named() -> None:
    """The manifest stays small if a whole split is the other one."""
    images = [picture(seed) for seed in range(50)]
    shared = found(source(images), source(images)).shared
    assert shared.num_images == 50
    assert shared.first == tuple((str(number), str(number)) for number in range(5))


def test_an_image_that_vanishes_while_it_is_compared_is_an_error() -> None:
    """The preparation ends as if the image had not been decoded in the first place."""

    class Gone(Source):
        def image(self, index: int) -> np.ndarray:
            raise ImageSourceError(f"{index} is gone")

    test = Gone(images=[picture(0)], labels=np.zeros(1))
    with pytest.raises(ImageSourceError, match="0 is gone"):
        found(source([picture(0)]), test)
