"""Puts the errors of a study's preparation into one text."""

from collections.abc import Iterator, Sequence

from eval.counts import counted
from eval.images.protocol import MAX_NAMED, BadImagesError, ImageSourceError
from orchestrator.study.few_lines import MAX_LINES, few_lines

REMEDY = (
    "repair or remove these files; or leave them out, counted, by `on_bad_image: skip` under tasks "
    "or under the task"
)
_MAX_OTHER_LINES = 3
"""Lines for other errors than bad images, where there are both."""


def preparation_text(errors: Sequence[str], *, data_errors: Sequence[ImageSourceError]) -> str:
    """Returns the reasons of a failed preparation: at most ten lines, bad images in the first.

    Args:
        errors: A text for each job that failed for other reasons than a task's files.
        data_errors: The errors of the tasks whose files cannot be used.
    """
    bad = [error for error in data_errors if isinstance(error, BadImagesError)]
    others = [*(str(error) for error in data_errors if error not in bad), *errors]
    if not bad:
        return "\n".join(few_lines(others))
    others = few_lines(others, at_most=_MAX_OTHER_LINES)
    return "\n".join([*_bad_images(bad, max_lines=MAX_LINES - 1 - len(others)), REMEDY, *others])


def _bad_images(errors: Sequence[BadImagesError], *, max_lines: int) -> Iterator[str]:
    num_images = sum(error.num_images for error in errors)
    named = [(error.task, image) for error in errors for image in error.first][:MAX_NAMED]
    first = f"; the first {len(named)} of them" if num_images > len(named) else ""
    yield f"{counted(num_images, 'image')} cannot be used{first}:"
    for line in few_lines((f"{task}: {image}" for task, image in named), at_most=max_lines):
        yield f"  {line}"
