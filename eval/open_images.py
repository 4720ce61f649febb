"""Opens the images of any task: embedded, published, or a study's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eval.data_root import data_root
from eval.own.images import open_own_images
from eval.suites import is_embedded

if TYPE_CHECKING:
    from eval.images.protocol import ImageSource
    from eval.task_source import TaskSource


def open_images(source: TaskSource) -> dict[str, ImageSource]:
    """Opens both splits of a task, at the images' own sizes and in their own order.

    Embedded tasks are composed, which takes seconds. Of all other tasks only labels are read.

    Returns:
        ``train`` and ``test``.

    Raises:
        ImageSourceError: The files are missing or damaged, or are not the planned ones.
    """
    task, root = source.task, data_root(source.root)
    if source.files is not None:
        return open_own_images(task, files=source.files, root=root)
    if is_embedded(task.name):
        from eval.embedded.build import compose_splits  # noqa: PLC0415 loads SciPy

        return dict(compose_splits(task))
    from eval.vision.published import open_vision  # noqa: PLC0415 loads torchvision

    return dict(open_vision(task.name, root=root))
