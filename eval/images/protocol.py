"""The interface of image sources: a task's images as published, before they are resized.

Errors::

    ValueError
    └── ImageSourceError        a file or split of a task cannot be read
        ├── BadImageError       one image cannot be used
        └── BadImagesError      images of one task cannot be used; names the first ones
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from eval.counts import counted
from eval.file_tree import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

MAX_NAMED = 20
"""Most bad images that a message names."""


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
            BadImageError: The image cannot be decoded; the message names the file.
            ImageSourceError: A file with many images cannot be read.
        """
        ...

    def name(self, index: int) -> str:
        """Returns the name of an image for people, the same on every machine."""
        ...


class ImageSourceError(ValueError):
    """A file or split of a task cannot be read; the message says why and what would be right."""


class BadImageError(ImageSourceError):
    """One image that cannot be used."""

    def __init__(self, name: str, reason: str, *, is_damaged: bool = True) -> None:
        """Names an image and the reason.

        Args:
            name: The image's file, with the row of a table.
            reason: A clause: ``cannot be decoded: the file is empty``.
            is_damaged: Whether the content is at fault, which is the same on every machine. False
                for a file that this machine cannot read.
        """
        super().__init__(f"{printable(name)}: {reason}")
        self.name = name
        self.reason = reason
        self.is_damaged = is_damaged

    def __reduce__(self) -> tuple[Any, ...]:
        """Returns the call that makes an equal error, for the way from a worker to the driver."""
        return _bad_image, (self.name, self.reason, self.is_damaged)


class BadImagesError(ImageSourceError):
    """Images of one task that cannot be used."""

    def __init__(self, task: str, *, num_images: int, first: Sequence[BadImageError]) -> None:
        """Names the first images.

        Args:
            task: The task's name.
            num_images: All images of the task that cannot be used.
            first: The first of them, at most `MAX_NAMED`.
        """
        lines = [f"task {task!r}: {counted(num_images, 'image')} cannot be used", *map(str, first)]
        if num_images > len(first):
            lines.append(f"and {num_images - len(first)} more")
        super().__init__("\n".join(lines))
        self.task = task
        self.num_images = num_images
        self.first = tuple(first)

    def __reduce__(self) -> tuple[Any, ...]:
        """Returns the call that makes an equal error, for the way from a worker to the driver."""
        return _bad_images, (self.task, self.num_images, self.first)


def _bad_image(name: str, reason: str, is_damaged: bool) -> BadImageError:  # noqa: FBT001 a call of pickle
    return BadImageError(name, reason, is_damaged=is_damaged)


def _bad_images(task: str, num_images: int, first: Sequence[BadImageError]) -> BadImagesError:
    return BadImagesError(task, num_images=num_images, first=first)
