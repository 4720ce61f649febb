import resource

import numpy as np
import pytest
from PIL import Image

from eval.images.decoding import MAX_WHOLE_PIXELS, resized
from eval.images.enlarged_crop import enlarged_crop


def whole_then_cropped(image: np.ndarray, *, side: int) -> np.ndarray:
    """Returns the square as it was made before: the whole picture is enlarged first."""
    height, width, channels = image.shape
    shorter = min(height, width)
    size = (int(side * width / shorter), int(side * height / shorter))
    left, top = (round((each - side) / 2) for each in size)
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    whole = np.asarray(picture.resize(size, Image.Resampling.BICUBIC))
    return whole[top : top + side, left : left + side].reshape(side, side, channels)


@pytest.mark.parametrize("seed", range(40))
def test_cropped_enlargement_has_the_bits_of_the_whole(seed: int) -> None:
    """Every bit is equal, for noise, for black and white, wide and tall, grey and coloured."""
    rng = np.random.default_rng(seed)
    side = int(rng.choice([8, 32, 37, 64, 224]))
    short = int(rng.integers(1, side))
    long = min(int(short * rng.uniform(1, 500)), max(short, 4_000_000 * short // side**2))
    channels = int(rng.choice([1, 3]))
    height, width = (short, long) if rng.random() < 0.5 else (long, short)
    image = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
    if rng.random() < 0.5:
        image = (image > 127).astype(np.uint8) * 255
    shorter = min(height, width)
    size = (int(side * width / shorter), int(side * height / shorter))
    left, top = (round((each - side) / 2) for each in size)
    found = enlarged_crop(image, size=size, left=left, top=top, side=side)
    np.testing.assert_array_equal(found, whole_then_cropped(image, side=side))


def test_long_thin_image_takes_little_memory() -> None:
    """60,000 x 4 pixels, which took 7 GB, have the bits that they had."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (4, 60_000, 3), dtype=np.uint8)
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = resized(image, image_size=224, channels=3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 200_000
    # The middle of the picture is far from both ends, so a part of it has the same middle.
    part = image[:, 29_000:31_000]
    np.testing.assert_array_equal(found[:, 20:-20], whole_then_cropped(part, side=224)[:, 20:-20])
    assert MAX_WHOLE_PIXELS < 224 * 224 * 60_000 // 4
