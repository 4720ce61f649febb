"""Makes a task's images: decoded and resized once, shard by shard, committed as one artifact."""

import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.images.decoding import decode
from eval.images.shards import SHARD_BYTES, images_per_shard, write_shard
from eval.images.source import ImageSource
from eval.tasks import Task
from workers.artifacts.artifacts import Artifacts
from workers.artifacts.manifests import Manifest
from workers.prepare.progress import PreparationProgress
from workers.prepare.shards_in_flight import ExpectedShard, ShardsInFlight
from workers.sampling.data_selection import Selection, select_images
from workers.specs.data import DataSpec
from workers.specs.ids import VERSIONS
from workers.specs.spec_json import spec_to_json
from workers.store.protocol import NotFoundError

REPORT_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A shard that is to be made."""

    expected: ExpectedShard
    selection: Selection
    """Which images it has."""


class Preparation:
    """One worker's making of one task's images."""

    def __init__(
        self,
        spec: DataSpec,
        *,
        task: Task,
        sources: Mapping[str, ImageSource],
        artifacts: Artifacts,
        num_threads: int,
        shard_bytes: int = SHARD_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Chooses the images; decodes nothing yet.

        Args:
            spec: What to make.
            task: Its channels and classes.
            sources: What the images are read from: `train` and `test`.
            artifacts: Where they are committed.
            num_threads: That decode.
            shard_bytes: Most pixels of a shard.
            clock: Seconds, from any origin.
        """
        self._spec = spec
        self._task = task
        self._sources = sources
        self._artifacts = artifacts
        self._num_threads = num_threads
        self._clock = clock
        self._per_shard = images_per_shard(
            image_size=spec.image_size, channels=task.channels, shard_bytes=shard_bytes
        )
        sizes = {name: len(source.labels) for name, source in sources.items()}
        self._selections = select_images(sizes, spec=spec)
        self._in_flight = ShardsInFlight(artifacts.store, data_id=spec.id)
        self._num_found = 0
        self._num_decoded = 0
        self._decoding_since_s: float | None = None

    def run(self) -> Iterator[PreparationProgress]:
        """Makes what is missing and commits all of it, reporting about every second and at the end.

        A shard is whole in memory while it is made, and its decoded images twice for a moment. All
        but the last are kept in the store as they are finished: a preparation that was killed goes
        on from there, on any node. The temporary directory holds all of them if the store is not
        on this machine, one if it is.

        Raises:
            ImageSourceError: An image cannot be decoded; finished shards are kept.
            StoreError: The store fails.
        """
        began_s = self._clock()
        with tempfile.TemporaryDirectory(prefix="mergesweep-images-") as scratch:
            files = yield from self._files(Path(scratch))
            manifest = self._commit(files, began_s=began_s)
        self._in_flight.remove()
        yield self._progress(committed=manifest)

    def _files(self, scratch: Path) -> Generator[PreparationProgress, None, dict[str, Path]]:
        self._in_flight.look()
        parts = list(self._parts())
        files: dict[str, Path] = {}
        for part in parts:
            expected = part.expected
            path = self._in_flight.find(expected, scratch=scratch)
            if path is None:
                path = scratch / expected.name
                yield from self._write(part, path)
                if part is not parts[-1]:  # which is committed at once
                    path = self._in_flight.keep(expected, path)
            else:
                self._num_found += len(expected.labels)
                yield self._progress()
            files[expected.name] = path
        return files

    def _parts(self) -> Iterator[_Part]:
        size, channels = self._spec.image_size, self._task.channels
        for split, selection in self._selections.items():
            labels = self._sources[selection.source].labels
            for number, start in enumerate(range(0, len(selection.positions), self._per_shard)):
                positions = selection.positions[start : start + self._per_shard]
                yield _Part(
                    expected=ExpectedShard(
                        split=split,
                        number=number,
                        shape=(len(positions), size, size, channels),
                        labels=labels[positions],
                    ),
                    selection=Selection(source=selection.source, positions=positions),
                )

    def _write(self, part: _Part, path: Path) -> Iterator[PreparationProgress]:
        expected = part.expected
        images = np.empty(expected.shape, dtype=np.uint8)
        if self._decoding_since_s is None:
            self._decoding_since_s = self._clock()
        reported_s = self._clock()
        num_done = 0
        for chunk in decode(
            self._sources[part.selection.source],
            part.selection.positions,
            image_size=self._spec.image_size,
            channels=self._task.channels,
            num_threads=self._num_threads,
        ):
            images[num_done : num_done + len(chunk)] = chunk
            num_done += len(chunk)
            self._num_decoded += len(chunk)
            if self._clock() - reported_s >= REPORT_EVERY_S:
                reported_s = self._clock()
                yield self._progress()
        write_shard(path, images, expected.labels, about=expected.about(self._spec.id))

    def _commit(self, files: Mapping[str, Path], *, began_s: float) -> Manifest:
        spec = self._spec
        sizes = {name: len(each.positions) for name, each in self._selections.items()}
        try:
            return self._artifacts.commit(
                "data",
                spec.id,
                version=VERSIONS["data"],
                spec=spec_to_json(spec),
                inputs={},
                files=files,
                outcome="done",
                metrics={
                    "num_classes": self._task.num_classes,
                    "num_train": sizes["train"],
                    "num_test": sizes["test"],
                    "images_per_shard": self._per_shard,
                },
                seconds={"prepare": self._clock() - began_s},
            )
        except (NotFoundError, FileNotFoundError):
            # Another worker on the same images was first, and removed what it had in flight.
            winner = self._artifacts.find("data", spec.id)
            if winner is None:
                raise
            return winner

    def _progress(self, *, committed: Manifest | None = None) -> PreparationProgress:
        rate = 0.0
        if self._decoding_since_s is not None:
            rate = self._num_decoded / max(1e-9, self._clock() - self._decoding_since_s)
        return PreparationProgress(
            task=self._spec.task,
            num_images=sum(len(each.positions) for each in self._selections.values()),
            num_done=self._num_found + self._num_decoded,
            images_per_s=rate,
            committed=committed,
        )
