"""Finds the images of a task that cannot be used, to name all of them or to leave them out."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from eval.images.decoding import find_bad_images
from eval.images.protocol import (
    MAX_NAMED,
    BadImageError,
    BadImagesError,
    ImageSource,
    ImageSourceError,
)
from eval.tasks import Task
from workers.artifacts.metrics import SkippedImages
from workers.sampling.data_selection import Selection


@dataclass(frozen=True, kw_only=True)
class ChosenImages:
    """The images of a task that a study stores."""

    task: Task
    sources: Mapping[str, ImageSource]
    selections: Mapping[str, Selection]
    """The chosen images, by split."""


Errors = dict[int, BadImageError]
"""Errors by position in the source."""


def check_images(
    chosen: ChosenImages, *, image_size: int, num_threads: int
) -> Iterator[tuple[str, Errors]]:
    """Decodes all chosen images; yields the split and the errors of the next few images.

    Raises:
        ImageSourceError: A file with many images cannot be read.
    """
    for split, selection in chosen.selections.items():
        for errors in find_bad_images(
            chosen.sources[selection.source],
            selection.positions,
            image_size=image_size,
            channels=chosen.task.channels,
            num_threads=num_threads,
        ):
            yield split, errors


def bad_images_error(task: Task, errors: Mapping[str, Errors]) -> BadImagesError:
    """Returns the error that names the bad images of all splits, in the order of their names."""
    found = sorted(
        (error for of_split in errors.values() for error in of_split.values()),
        key=lambda error: error.name,
    )
    return BadImagesError(task.name, num_images=len(found), first=found[:MAX_NAMED])


def without_bad_images(
    chosen: ChosenImages, errors: Mapping[str, Errors]
) -> tuple[dict[str, Selection], SkippedImages | None]:
    """Returns the selections without bad images, and the count of these; None if there are none.

    Raises:
        BadImagesError: A file cannot be read by this machine, though another one may read it.
        ImageSourceError: A split, or a class in a split, would have no image left.
    """
    unreadable = {
        split: {at: error for at, error in of_split.items() if not error.is_damaged}
        for split, of_split in errors.items()
    }
    if any(unreadable.values()):
        raise bad_images_error(chosen.task, unreadable)
    kept = {
        split: Selection(
            source=each.source,
            positions=each.positions[~np.isin(each.positions, list(errors.get(split, ())))],
        )
        for split, each in chosen.selections.items()
    }
    _check_classes(chosen, kept=kept)
    return kept, _skipped(chosen, errors) if any(errors.values()) else None


def _skipped(chosen: ChosenImages, errors: Mapping[str, Errors]) -> SkippedImages:
    """Counts the bad images, with names that are the same on every machine."""
    told = sorted(
        f"{chosen.sources[chosen.selections[split].source].name(at)}: {error.reason}"
        for split, of_split in errors.items()
        for at, error in of_split.items()
    )
    return SkippedImages(num_images=len(told), first=tuple(told[:MAX_NAMED]))


def _check_classes(chosen: ChosenImages, *, kept: Mapping[str, Selection]) -> None:
    task = chosen.task
    for split, selection in kept.items():
        labels = chosen.sources[selection.source].labels
        before, after = (
            Counter(labels[each.positions].tolist())
            for each in (chosen.selections[split], selection)
        )
        empty = [task.classes[label] for label in sorted(before) if not after[label]]
        if before and not after:
            raise ImageSourceError(
                f"task {task.name!r}: no image of its {split} split can be used; all "
                f"{before.total():,} were skipped"
            )
        if empty:
            raise ImageSourceError(
                f"task {task.name!r}: no image of class {', '.join(empty[:5])} in its {split} "
                "split can be used; all of them were skipped"
            )
