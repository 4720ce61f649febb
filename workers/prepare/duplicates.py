"""Finds images that a task has twice: in both splits, or in training under two labels.

Two images are equal if they have the same pixels before they are resized. To compare them costs no
second decoding of most images: equal images are equal after resizing too, so only images with the
same resized pixels are decoded again.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eval.images.protocol import ImageSource
from workers.artifacts.metrics import ImagePairs
from workers.sampling.data_selection import Selection

NUM_PAIRS_NAMED = 5
"""The number of pairs of equal images whose names are kept."""

Digests = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """The equal images of a task."""

    shared: ImagePairs
    """Test images that are training or validation images too, each with the first such image."""
    contradictions: ImagePairs
    """Training images that are there with another label too, with one pair for each image."""


@dataclass(frozen=True, kw_only=True)
class _Image:
    """An image that may have a duplicate."""

    split: str
    source: ImageSource
    index: int
    """Position in the source."""

    @property
    def label(self) -> int:
        return int(self.source.labels[self.index])

    @property
    def name(self) -> str:
        return self.source.name(self.index)


def digests_of(images: npt.NDArray[np.uint8]) -> Digests:
    """Returns 64 bits for each image, equal for equal pixels.

    Different images have equal bits by chance: among a million images, in 3 of 100 million cases.

    Shapes:
        images: (num, height, width, channels), contiguous.
        returns: (num,).
    """
    digests = (hashlib.sha256(image).digest()[:8] for image in images)
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


def find_duplicates(
    sources: Mapping[str, ImageSource],
    *,
    selections: Mapping[str, Selection],
    resized: Mapping[str, Digests],
    num_threads: int,
) -> Duplicates:
    """Finds the equal images of a task among its stored images.

    Args:
        sources: The task's images.
        selections: The images that are stored, by split.
        resized: Digests of the stored images after resizing, by split, in the stored order.
        num_threads: Threads that decode.

    Raises:
        ImageSourceError: An image that was decoded before can no longer be decoded.
    """
    groups = _groups(list(_candidates(sources, selections, resized)), num_threads=num_threads)
    shared, contradictions, num_contradictory = [], [], 0
    for group in groups:
        train = [image for image in group if image.split == "train"]
        chosen_on = [image for image in group if image.split != "test"]
        shared += [(chosen_on[0], image) for image in group if chosen_on and image.split == "test"]
        others = [image for image in train if image.label != train[0].label]
        if others:
            contradictions.append((train[0], others[0]))
            num_contradictory += len(train)
    return Duplicates(
        shared=_named(shared, num_images=len(shared)),
        contradictions=_named(contradictions, num_images=num_contradictory),
    )


def _candidates(
    sources: Mapping[str, ImageSource],
    selections: Mapping[str, Selection],
    resized: Mapping[str, Digests],
) -> Iterator[_Image]:
    """Yields the images whose resized pixels occur more than once, in the order of the sources."""
    every = np.concatenate(list(resized.values()))
    _, where, counts = np.unique(every, return_inverse=True, return_counts=True)
    is_repeated = dict(zip(resized, _split(counts[where] > 1, resized), strict=True))
    for split, selection in selections.items():
        for index in np.sort(selection.positions[is_repeated[split]]).tolist():
            yield _Image(split=split, source=sources[selection.source], index=index)


def _split(
    joined: npt.NDArray[np.bool_], parts: Mapping[str, Digests]
) -> Sequence[npt.NDArray[np.bool_]]:
    return np.split(joined, np.cumsum([len(part) for part in parts.values()])[:-1])


def _groups(candidates: Sequence[_Image], *, num_threads: int) -> list[list[_Image]]:
    """Returns the groups of two or more candidates with the same pixels."""

    def digest(image: _Image) -> tuple[tuple[int, ...], bytes]:
        pixels = image.source.image(image.index)
        return pixels.shape, hashlib.sha256(np.ascontiguousarray(pixels).data).digest()

    groups: dict[object, list[_Image]] = {}
    with ThreadPoolExecutor(num_threads, thread_name_prefix="comparing") as threads:
        for image, found in zip(candidates, threads.map(digest, candidates), strict=True):
            groups.setdefault(found, []).append(image)
    return [group for group in groups.values() if len(group) > 1]


def _named(pairs: Sequence[tuple[_Image, _Image]], *, num_images: int) -> ImagePairs:
    first = tuple((one.name, other.name) for one, other in pairs[:NUM_PAIRS_NAMED])
    return ImagePairs(num_images=num_images, first=first)
