"""What a task's images are read from, as published: before they are resized and stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class ImageSource(Protocol):
    """One split: labels at hand, images decoded one by one, so that none need fit into memory."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Positions in the task's classes, (num,), in the order of the source."""
        ...

    def image(self, index: int) -> NDArray[np.uint8]:
        """Decodes one image at its own size; several threads may call it at once.

        Shapes:
            returns: (height, width, 1 or 3); grey is one channel.

        Raises:
            ImageSourceError: It cannot be decoded; the message names the file.
        """
        ...


class ImageSourceError(ValueError):
    """Says which file or split of a task cannot be read, why, and what would be right."""
