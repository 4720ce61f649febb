"""Puts the errors of a study's preparation into one text."""

from collections.abc import Iterator, Sequence

from eval.counts import counted
from eval.images.protocol import MAX_NAMED, BadImagesError, ImageSourceError

REMEDY = (
    "repair or remove these files; or leave them out, counted, by `on_bad_image: skip` under tasks "
    "or under the task"
)


def preparation_text(errors: Sequence[str], *, data_errors: Sequence[ImageSourceError]) -> str:
    """Returns the reasons of a failed preparation, with a line for each bad image.

    Args:
        errors: A text for each job that failed for other reasons than a task's files.
        data_errors: The errors of the tasks whose files cannot be used.
    """
    return "\n".join([*_data_lines(data_errors), *errors])


def _data_lines(errors: Sequence[ImageSourceError]) -> Iterator[str]:
    bad = [error for error in errors if isinstance(error, BadImagesError)]
    if bad:
        num_images = sum(error.num_images for error in bad)
        yield f"{counted(num_images, 'image')} cannot be used"
        images = [(error.task, image) for error in bad for image in error.first][:MAX_NAMED]
        for task, image in images:
            yield f"  {task}: {image}"
        if num_images > len(images):
            yield f"  and {num_images - len(images):,} more"
        yield REMEDY
    yield from (str(error) for error in errors if error not in bad)
