import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from eval.images.decoding import CHUNK_IMAGES, decode_images, resized
from eval.images.protocol import ImageSourceError
from eval.images.split import Split

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("height", "width"), [(64, 64), (47, 80), (200, 33), (8, 9), (31, 32), (16, 500)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_resizing_is_that_of_clips_preprocessing(height: int, width: int, channels: int) -> None:
    """The bits equal torchvision's `Resize` and `CenterCrop` on the same picture."""
    image = RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)
    theirs = Compose([Resize(32, interpolation=InterpolationMode.BICUBIC), CenterCrop(32)])
    expected = np.asarray(theirs(Image.fromarray(image[..., 0] if channels == 1 else image)))
    found = resized(image, image_size=32, channels=channels)
    np.testing.assert_array_equal(found, expected.reshape(32, 32, channels))


def test_grey_image_among_coloured_ones_gets_three_equal_channels() -> None:
    """The result equals that of an image whose channel was repeated first."""
    image = RNG.integers(0, 256, (50, 70, 1), dtype=np.uint8)
    repeated = np.repeat(image, 3, axis=-1)
    np.testing.assert_array_equal(
        resized(image, image_size=24, channels=3), resized(repeated, image_size=24, channels=3)
    )


def test_coloured_image_of_a_grey_task_is_refused() -> None:
    """Colours are not dropped silently."""
    with pytest.raises(ImageSourceError, match="has 3 channels, its task has 1"):
        resized(np.zeros((4, 4, 3), np.uint8), image_size=4, channels=1)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_decoded_images_come_in_the_order_asked_for(num_threads: int) -> None:
    """The order holds for any number of threads, and for a position that occurs twice."""
    images = RNG.integers(0, 256, (90, 9, 12, 3), dtype=np.uint8)
    source = Split(images=images, labels=np.zeros(90, dtype=np.int64))
    positions = RNG.permutation(90)[:70]
    positions[3] = positions[40]
    chunks = list(
        decode_images(source, positions, image_size=6, channels=3, num_threads=num_threads)
    )
    assert [len(chunk) for chunk in chunks] == [32, 32, 6]
    expected = [resized(images[i], image_size=6, channels=3) for i in positions]
    np.testing.assert_array_equal(np.concatenate(chunks), np.stack(expected))


class Broken:
    """A source in which one file is no image."""

    def __init__(self) -> None:
        self.labels = np.zeros(100 * CHUNK_IMAGES, dtype=np.int64)
        self.num_asked = 0

    def image(self, index: int) -> np.ndarray:
        """Raises an error for the 41st image."""
        self.num_asked += 1
        if index == 40:
            raise ImageSourceError(f"{Path('x') / '40.png'}: not an image")
        return np.zeros((4, 4, 3), np.uint8)

    def name(self, index: int) -> str:
        """Returns the position."""
        return str(index)


def test_image_that_cannot_be_decoded_ends_it_at_once() -> None:
    """The source's error is raised, remaining images are skipped, and no thread stays alive."""
    source = Broken()
    chunks = decode_images(source, np.arange(3200), image_size=4, channels=3, num_threads=2)
    with pytest.raises(ImageSourceError, match=r"40\.png: not an image"):
        list(chunks)
    assert source.num_asked < 3200
    assert not [each for each in threading.enumerate() if each.name.startswith("decoding")]
