"""Images in files of their own, or as the bytes of such files, decoded one by one."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from eval.images.protocol import ImageSourceError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True, kw_only=True, eq=False)
class FileSource:
    """Reads a split of which every image is a file."""

    paths: Sequence[Path]
    labels: NDArray[np.int64]
    """Positions in the task's classes, (num,)."""
    channels: int
    """Of every image that is returned: 1 or 3."""

    def image(self, index: int) -> NDArray[np.uint8]:
        """Decodes one image; see `eval.images.protocol.ImageSource`."""
        path = self.paths[index]
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ImageSourceError(f"{path}: cannot be read: {error}") from error
        return decode_bytes(content, channels=self.channels, name=str(path))


@dataclass(frozen=True, kw_only=True, eq=False)
class ArraySource:
    """Reads a split whose images are one array, in memory or mapped."""

    images: NDArray[np.uint8]
    """Pixels, (num, height, width, channels)."""
    labels: NDArray[np.int64]
    """Positions in the task's classes, (num,)."""

    def image(self, index: int) -> NDArray[np.uint8]:
        """Returns one image; see `eval.images.protocol.ImageSource`."""
        image: NDArray[np.uint8] = self.images[index]
        return image


def decode_bytes(content: bytes, *, channels: int, name: str) -> NDArray[np.uint8]:
    """Decodes an encoded image: palettes, CMYK and grey become RGB, an alpha channel is dropped.

    Args:
        content: A PNG, JPEG or any other format that Pillow reads.
        channels: 3, or 1 for greyscale.
        name: How errors name the image.

    Shapes:
        returns: (height, width, channels). A camera's note on how it was held is not followed, as
            torchvision does not.

    Raises:
        ImageSourceError: It is no image, is cut off, or has more than 8 bits a channel.
    """
    try:
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            return np.asarray(_converted(picture, channels=channels)).reshape(
                picture.height, picture.width, channels
            )
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageSourceError(f"{name}: cannot be decoded: {error}") from error


def _converted(picture: Image.Image, *, channels: int) -> Image.Image:
    if picture.mode.startswith(("I", "F")):
        raise ValueError(f"its mode is {picture.mode}; save it with 8 bits a channel")
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return picture.convert(_MODES[channels])
