"""Decodes images on threads and resizes them to the size at which they are stored."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from eval.images.enlarged_crop import enlarged_crop
from eval.images.protocol import BadImageError, ImageSource, ImageSourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

CHUNK_IMAGES = 32
"""Images that a thread decodes at a time: 5 MB at 224 pixels."""

MAX_WHOLE_PIXELS = 1 << 24
"""Most pixels of an enlarged image before it is cropped: 64 MB on each thread that decodes."""


def resized(image: NDArray[np.uint8], *, image_size: int, channels: int) -> NDArray[np.uint8]:
    """Resizes the shorter side to the size, then crops the square in the middle.

    Pillow's bicubic filter grows wider when it shrinks an image, so nothing aliases. A grey image
    of a task in colour gets three equal channels. A long, thin image is cropped while it is
    enlarged, which gives the same bits.

    Shapes:
        image: (height, width, 1 or 3).
        returns: (image_size, image_size, channels), read-only.

    Raises:
        ImageSourceError: The image has colours and the task is grey.
    Source: CLIP's preprocessing, `Resize(size, BICUBIC)` and `CenterCrop(size)` of torchvision,
        with its rounding. timm's evaluation is the same for models whose `crop_pct` is 1.
    """
    height, width, found = image.shape
    if found > channels:
        raise ImageSourceError(f"an image has {found} channels, its task has {channels}")
    shorter = min(height, width)
    size = (int(image_size * width / shorter), int(image_size * height / shorter))
    left, top = (round((side - image_size) / 2) for side in size)
    if size[0] * size[1] > MAX_WHOLE_PIXELS and shorter < image_size:
        square = enlarged_crop(image, size=size, left=left, top=top, side=image_size)
    else:
        picture = Image.fromarray(image[..., 0] if found == 1 else image)
        whole = np.asarray(picture.resize(size, Image.Resampling.BICUBIC))
        square = whole[top : top + image_size, left : left + image_size]
        square = square.reshape(image_size, image_size, found)
    return np.broadcast_to(square, (image_size, image_size, channels))


def decode_images(
    source: ImageSource,
    positions: NDArray[np.int64],
    *,
    image_size: int,
    channels: int,
    num_threads: int,
) -> Iterator[NDArray[np.uint8]]:
    """Yields the images at the given positions of a source, in that order, a few at a time.

    Decoded images wait in memory until they are taken, so all images of a call must fit into it.

    Shapes:
        yields: (num, image_size, image_size, channels).

    Raises:
        ImageSourceError: An image cannot be used. Images that no thread has begun are skipped.
    """

    def decode_chunk(start: int) -> NDArray[np.uint8]:
        return np.stack(
            [
                _decoded(source, index, image_size=image_size, channels=channels)
                for index in positions[start : start + CHUNK_IMAGES].tolist()
            ]
        )

    with ThreadPoolExecutor(num_threads, thread_name_prefix="decoding") as threads:
        yield from threads.map(decode_chunk, range(0, len(positions), CHUNK_IMAGES))


def find_bad_images(
    source: ImageSource,
    positions: NDArray[np.int64],
    *,
    image_size: int,
    channels: int,
    num_threads: int,
) -> Iterator[dict[int, BadImageError]]:
    """Decodes the images at the given positions, and yields those that cannot be used.

    Yields:
        The errors of the next few images, by position; most often none.

    Raises:
        ImageSourceError: A file with many images cannot be read.
    """

    def check_chunk(start: int) -> dict[int, BadImageError]:
        bad = {}
        for index in positions[start : start + CHUNK_IMAGES].tolist():
            try:
                _decoded(source, index, image_size=image_size, channels=channels)
            except BadImageError as error:
                bad[index] = error
        return bad

    with ThreadPoolExecutor(num_threads, thread_name_prefix="decoding") as threads:
        yield from threads.map(check_chunk, range(0, len(positions), CHUNK_IMAGES))


def _decoded(
    source: ImageSource, index: int, *, image_size: int, channels: int
) -> NDArray[np.uint8]:
    image = source.image(index)
    if image.shape[-1] > channels:
        reason = f"it has {image.shape[-1]} channels, and its task has {channels}"
        raise BadImageError(source.name(index), reason)
    return resized(image, image_size=image_size, channels=channels)
