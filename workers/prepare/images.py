"""Prepares a task's images: decodes and resizes them once, in shards, and commits one artifact."""

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from eval.images.decoding import decode_images
from eval.images.protocol import BadImageError, ImageSource
from eval.images.shards import SHARD_BYTES, images_per_shard, open_shard, write_shard
from eval.open_images import open_images
from eval.tasks import Task
from workers.artifacts.artifacts import Artifacts
from workers.artifacts.manifests import Manifest
from workers.artifacts.metrics import DataMetrics, SkippedImages
from workers.artifacts.provenance import Provenance
from workers.prepare.bad_images import (
    ChosenImages,
    Errors,
    bad_images_error,
    check_images,
    without_bad_images,
)
from workers.prepare.duplicates import Digests, digests_of, find_duplicates
from workers.prepare.progress import PreparationProgress
from workers.prepare.shards_in_flight import ExpectedShard, ShardsInFlight
from workers.sampling.data_selection import Selection, select_images
from workers.specs.data import DataJob, DataSpec
from workers.store.protocol import NotFoundError
from workers.store.scratch import scratch_directory
from workers.workspace import Workspace

REPORT_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class OpenedTask:
    """A task whose images can be read, and the specification of the images to keep."""

    spec: DataSpec
    task: Task
    sources: Mapping[str, ImageSource]
    """The task's `train` and `test` images."""


@dataclass(frozen=True, kw_only=True)
class _PlannedShard:
    """A shard to make."""

    expected: ExpectedShard
    selection: Selection
    """The images in the shard."""


class ImagePreparation:
    """The preparation of one task's images by one worker."""

    def __init__(
        self,
        opened: OpenedTask,
        *,
        artifacts: Artifacts,
        num_threads: int,
        shard_bytes: int = SHARD_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Chooses the images; `run` decodes them.

        Args:
            opened: The images to prepare.
            artifacts: Receives the committed images.
            num_threads: Threads that decode.
            shard_bytes: Upper limit on the pixels of a shard, in bytes.
            clock: Returns seconds from an arbitrary origin.
        """
        self._spec = opened.spec
        self._task = opened.task
        self._sources = opened.sources
        self._artifacts = artifacts
        self._num_threads = num_threads
        self._clock = clock
        self._per_shard = images_per_shard(
            image_size=self._spec.image_size, channels=self._task.channels, shard_bytes=shard_bytes
        )
        sizes = {name: len(source.labels) for name, source in self._sources.items()}
        self._selections = select_images(sizes, spec=self._spec)
        self._in_flight = ShardsInFlight(artifacts.store, data_id=self._spec.id)
        self._digests: dict[str, list[Digests]] = {split: [] for split in self._selections}
        self._skipped: SkippedImages | None = None
        self._num_found = 0
        self._num_decoded = 0
        self._decoding_since_s: float | None = None

    def run(self) -> Iterator[PreparationProgress]:
        """Makes the missing shards and commits all shards; reports about once a second.

        The last report carries the manifest.

        Memory: one shard, and twice its decoded images while the shard is written. Disk: all
        shards in the temporary directory if the store is on another machine, otherwise one.

        The store keeps every finished shard but the last. After a kill, a preparation on any node
        continues with those shards.

        Raises:
            BadImagesError: Images cannot be used; the error names them. Finished shards are kept.
            ImageSourceError: A file with many images cannot be read, or a split or class would have
                no image left without the bad ones.
            StoreError: The store fails.
        """
        began_s = self._clock()
        if self._spec.on_bad_image == "skip":
            errors = yield from self._find_bad_images()
            self._selections, self._skipped = without_bad_images(self._chosen(), errors)
        with scratch_directory("images") as scratch:
            try:
                files = yield from self._files(scratch)
            except BadImageError:
                errors = yield from self._find_bad_images()
                if not any(errors.values()):
                    raise
                raise bad_images_error(self._task, errors) from None
            manifest = self._commit(files, began_s=began_s)
        self._in_flight.remove()
        yield self._progress(committed=manifest)

    def _find_bad_images(self) -> Generator[PreparationProgress, None, dict[str, Errors]]:
        """Decodes all chosen images, and returns the errors by split."""
        found: dict[str, Errors] = {split: {} for split in self._selections}
        reported_s = self._clock()
        for split, errors in check_images(
            self._chosen(), image_size=self._spec.image_size, num_threads=self._num_threads
        ):
            found[split] |= errors
            if self._clock() - reported_s >= REPORT_EVERY_S:
                reported_s = self._clock()
                yield self._progress()
        return found

    def _chosen(self) -> ChosenImages:
        return ChosenImages(task=self._task, sources=self._sources, selections=self._selections)

    def _files(self, scratch: Path) -> Generator[PreparationProgress, None, dict[str, Path]]:
        """Finds or makes every shard; returns local paths by file name."""
        self._in_flight.refresh()
        planned = list(self._planned_shards())
        files: dict[str, Path] = {}
        for shard in planned:
            expected = shard.expected
            path = self._in_flight.find(expected, scratch=scratch)
            if path is None:
                path = scratch / expected.name
                yield from self._write(shard, path)
                if shard is not planned[-1]:  # the commit, which comes next, uploads the last one
                    path = self._in_flight.keep(expected, path)
            else:
                self._num_found += len(expected.labels)
                self._digests[expected.split].append(digests_of(open_shard(path).images))
                yield self._progress()
            files[expected.name] = path
        return files

    def _planned_shards(self) -> Iterator[_PlannedShard]:
        size, channels = self._spec.image_size, self._task.channels
        for split, selection in self._selections.items():
            labels = self._sources[selection.source].labels
            for number, start in enumerate(range(0, len(selection.positions), self._per_shard)):
                positions = selection.positions[start : start + self._per_shard]
                yield _PlannedShard(
                    expected=ExpectedShard(
                        split=split,
                        number=number,
                        shape=(len(positions), size, size, channels),
                        labels=labels[positions],
                    ),
                    selection=Selection(source=selection.source, positions=positions),
                )

    def _write(self, shard: _PlannedShard, path: Path) -> Iterator[PreparationProgress]:
        expected = shard.expected
        images = np.empty(expected.shape, dtype=np.uint8)
        if self._decoding_since_s is None:
            self._decoding_since_s = self._clock()
        reported_s = self._clock()
        num_done = 0
        for chunk in decode_images(
            self._sources[shard.selection.source],
            shard.selection.positions,
            image_size=self._spec.image_size,
            channels=self._task.channels,
            num_threads=self._num_threads,
        ):
            images[num_done : num_done + len(chunk)] = chunk
            self._digests[expected.split].append(digests_of(chunk))
            num_done += len(chunk)
            self._num_decoded += len(chunk)
            if self._clock() - reported_s >= REPORT_EVERY_S:
                reported_s = self._clock()
                yield self._progress()
        write_shard(path, images, expected.labels, about=expected.about(self._spec.id))

    def _commit(self, files: Mapping[str, Path], *, began_s: float) -> Manifest:
        spec = self._spec
        try:
            return self._artifacts.commit(
                Provenance.of(spec, kind="data", inputs={}),
                files=files,
                metrics=self._metrics().to_json(),
                seconds={"prepare": self._clock() - began_s},
            )
        except (NotFoundError, FileNotFoundError):
            # Another worker has committed the same images and removed the shards in flight.
            winner = self._artifacts.find("data", spec.id)
            if winner is None:
                raise
            return winner

    def _metrics(self) -> DataMetrics:
        labels = {
            split: self._sources[each.source].labels[each.positions]
            for split, each in self._selections.items()
        }
        duplicates = find_duplicates(
            self._sources,
            selections=self._selections,
            resized={split: np.concatenate(each) for split, each in self._digests.items()},
            num_threads=self._num_threads,
        )
        num_classes = self._task.num_classes
        return DataMetrics(
            num_classes=num_classes,
            num_train=len(labels["train"]),
            num_test=len(labels["test"]),
            images_per_shard=self._per_shard,
            class_counts={
                split: tuple(np.bincount(each, minlength=num_classes).tolist())
                for split, each in labels.items()
            },
            skipped=self._skipped,
            shared=duplicates.shared,
            contradictions=duplicates.contradictions,
        )

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


def prepare_data(job: DataJob, *, workspace: Workspace) -> Iterator[PreparationProgress]:
    """Commits a task's images as Arrow files, which jobs memory-map; yields progress.

    As many threads decode as torch may use. See `ImagePreparation.run`.

    Raises:
        ImageSourceError: The task's files are missing, damaged, or differ from the plan's. The
            error names all images that cannot be used. The next call continues with the finished
            shards.
    """
    preparation = ImagePreparation(
        OpenedTask(spec=job.spec, task=job.source.task, sources=open_images(job.source)),
        artifacts=workspace.artifacts,
        num_threads=torch.get_num_threads(),
    )
    return preparation.run()
