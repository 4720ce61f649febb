"""The interface of image sources: a task's images as published, before they are resized."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class ImageSource(Protocol):
    """One split. Labels are in memory; images are decoded one by one, so they need not fit."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Labels as positions in the task's classes, (num,), in the order of the source."""
        ...

    def image(self, index: int) -> NDArray[np.uint8]:
        """Decodes one image at its own size. Several threads may call it at once.

        Shapes:
            returns: (height, width, 1 or 3); a grey image has one channel.

        Raises:
            ImageSourceError: The image cannot be decoded; the message names the file.
        """
        ...

    def name(self, index: int) -> str:
        """Returns the name of an image for people, the same on every machine."""
        ...


class ImageSourceError(ValueError):
    """A file or split of a task cannot be read; the message says why and what would be right."""
