"""Image sources with one file per image, or one array of all images."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from eval.images.content import kind_of_content
from eval.images.protocol import BadImageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

NUM_NAMES = 3
"""The last names of a path that name an image."""
_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True, kw_only=True, eq=False)
class FileSource:
    """A split with one file per image."""

    paths: Sequence[Path]
    """The files, in the order of the labels."""
    labels: NDArray[np.int64]
    """Positions in the task's classes, (num,)."""
    channels: int
    """Channels of the returned images: 1 or 3."""

    def image(self, index: int) -> NDArray[np.uint8]:
        """Decodes one image; see `eval.images.protocol.ImageSource`."""
        path = self.paths[index]
        try:
            content = path.read_bytes()
        except OSError as error:
            reason = f"cannot be read: {error.strerror}"
            raise BadImageError(str(path), reason, is_damaged=False) from error
        return decode_bytes(content, channels=self.channels, name=str(path))

    def name(self, index: int) -> str:
        """Returns the last names of the path: in own folders, split, class and file."""
        return "/".join(self.paths[index].parts[-NUM_NAMES:])


@dataclass(frozen=True, kw_only=True, eq=False)
class ArraySource:
    """A split whose images are one array, in memory or memory-mapped."""

    images: NDArray[np.uint8]
    """Pixels, (num, height, width, channels)."""
    labels: NDArray[np.int64]
    """Positions in the task's classes, (num,)."""

    def image(self, index: int) -> NDArray[np.uint8]:
        """Returns one image; see `eval.images.protocol.ImageSource`."""
        image: NDArray[np.uint8] = self.images[index]
        return image

    def name(self, index: int) -> str:
        """Returns the position of an image."""
        return f"image {index}"


def decode_bytes(content: bytes, *, channels: int, name: str) -> NDArray[np.uint8]:
    """Decodes an encoded image.

    Palettes, CMYK and grey become RGB, and an alpha channel is dropped. As in torchvision, the
    orientation that a camera stores in the metadata is ignored.

    Args:
        content: A PNG, a JPEG or another format that Pillow reads.
        channels: 3, or 1 for greyscale.
        name: Name of the image, for errors.

    Shapes:
        returns: (height, width, channels).

    Raises:
        BadImageError: The content is no image or incomplete, or has more than 8 bits a channel, or
            more than 179 million pixels, Pillow's limit against decompression bombs.
    """
    try:
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            return np.asarray(_converted(picture, channels=channels)).reshape(
                picture.height, picture.width, channels
            )
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise errors of any kind for damaged content
        raise BadImageError(name, _reason(content, error=error)) from error


def _reason(content: bytes, *, error: Exception) -> str:
    """Returns the words on content that cannot be decoded, without Pillow's own objects."""
    if isinstance(error, Image.DecompressionBombError):
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return f"cannot be decoded: it has more than {most:,} pixels; make it smaller"
    if isinstance(error, UnidentifiedImageError):
        unknown = f"it is no image that this machine's Pillow reads; it begins with {content[:8]!r}"
        return f"cannot be decoded: {kind_of_content(content) or unknown}"
    return f"cannot be decoded: {str(error) or type(error).__name__}"


def _converted(picture: Image.Image, *, channels: int) -> Image.Image:
    if picture.mode.startswith(("I", "F")):
        raise ValueError(f"its mode is {picture.mode}; save it with 8 bits a channel")
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return picture.convert(_MODES[channels])
