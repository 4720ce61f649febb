"""Preparations of images that are killed, damaged or duplicated end with the same artifact."""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from eval.images.decoding import resized
from eval.images.protocol import ImageSourceError
from eval.images.shards import open_split, shard_names, write_shard
from eval.images.split import Split
from eval.suites import find_task
from workers.artifacts.artifacts import Artifacts
from workers.artifacts.layout import Layout
from workers.artifacts.manifests import Manifest
from workers.artifacts.metrics import DataMetrics, ImagePairs
from workers.artifacts.node_cache import NodeCache
from workers.prepare.images import ImagePreparation, OpenedTask
from workers.sampling.data_selection import select_images
from workers.specs.data import DataSpec
from workers.store.local import LocalStore
from workers.store.protocol import Store, StoreUnavailableError

SIZE = 8
SHARD_BYTES = 10 * SIZE * SIZE * 3
"""Ten images."""
TASK = find_task("bluemarble_regions")
SHARDS = ["train-00000", "train-00001", "train-00002", "test-00000", "test-00001"]


class Counted:
    """A source that records the requested images and can fail at one of them."""

    def __init__(self, split: Split, *, fails_at: int | None = None) -> None:
        self.labels = split.labels
        self.asked: list[int] = []
        self._split = split
        self._fails_at = fails_at

    def image(self, index: int) -> np.ndarray:
        """Returns an image."""
        self.asked.append(index)
        if len(self.asked) == self._fails_at:
            raise ImageSourceError(f"image {index} is torn")
        return self._split.image(index)

    def name(self, index: int) -> str:
        """Returns the position."""
        return f"image {index}"


def random_split(size: int, *, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (size, 12, 9, 3), dtype=np.uint8)
    return Split(images=images, labels=rng.integers(0, TASK.num_classes, size))


WHOLE = {"train": random_split(60, seed=0), "test": random_split(40, seed=1)}


@pytest.fixture
def spec(datasets: Mapping[str, DataSpec]) -> DataSpec:
    """Returns the selection of 25 of 60 training images and 16 of 40 test images: five shards."""
    return replace(datasets[TASK.name], image_size=SIZE, max_train=25, max_test=16)


@pytest.fixture
def begin(spec: DataSpec) -> Callable[..., tuple[ImagePreparation, dict[str, Counted]]]:
    """Returns a function that starts a preparation as a fresh process does."""

    def begin(
        store: Store, *, fails_at: int | None = None
    ) -> tuple[ImagePreparation, dict[str, Counted]]:
        sources = {name: Counted(split, fails_at=fails_at) for name, split in WHOLE.items()}
        preparation = ImagePreparation(
            OpenedTask(spec=spec, task=TASK, sources=sources),
            artifacts=Artifacts(store),
            num_threads=2,
            shard_bytes=SHARD_BYTES,
        )
        return preparation, sources

    return begin


Begin = Callable[..., tuple[ImagePreparation, dict[str, Counted]]]


def finish(preparation: ImagePreparation) -> Manifest:
    *_, last = preparation.run()
    assert last.committed is not None
    assert last.num_done == last.num_images == 41
    return last.committed


def in_flight(store: Store, spec: DataSpec) -> dict[str, str]:
    """Returns the keys of shards in flight by `<split>-<number>`."""
    keys = [entry.key for entry in store.list(Layout.in_flight(spec.id))]
    return {key.rpartition("/")[2].rpartition("-")[0]: key for key in keys}


def num_asked(sources: Mapping[str, Counted]) -> int:
    return sum(len(source.asked) for source in sources.values())


def stop_after(
    preparation: ImagePreparation, *, num_shards: int, store: Store, spec: DataSpec
) -> None:
    """Kills a preparation as soon as the store has a number of shards."""

    class KilledError(BaseException):
        """The end of the process."""

    upload = store.upload

    def count(key: str, path: Path) -> None:
        if len(in_flight(store, spec)) == num_shards:
            raise KilledError
        upload(key, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "upload", count)
        with pytest.raises(KilledError):
            finish(preparation)
    assert sorted(in_flight(store, spec)) == sorted(SHARDS[:num_shards])


def test_shards_hold_the_chosen_images_resized(
    store: Store, spec: DataSpec, begin: Begin, tmp_path: Path
) -> None:
    """Shards have ten images in the order of the selection.

    Each selected image is decoded once, and no other image is decoded.
    """
    preparation, sources = begin(store)
    manifest = finish(preparation)
    assert [file.name for file in manifest.files] == sorted(f"{name}.arrow" for name in SHARDS)
    assert manifest.metrics["images_per_shard"] == 10
    assert (manifest.metrics["num_train"], manifest.metrics["num_test"]) == (25, 16)
    sizes = {name: len(split) for name, split in WHOLE.items()}
    for name, selection in select_images(sizes, spec=spec).items():
        assert sorted(sources[name].asked) == sorted(selection.positions)
        names = shard_names((file.name for file in manifest.files), split=name)
        cache = NodeCache(tmp_path / "cache")
        split = open_split([Artifacts(store).fetch(manifest, each, cache) for each in names])
        expected = [
            resized(WHOLE[name].image(i), image_size=SIZE, channels=3) for i in selection.positions
        ]
        np.testing.assert_array_equal(split.images, np.stack(expected))
        np.testing.assert_array_equal(split.labels, WHOLE[name].labels[selection.positions])
    assert in_flight(store, spec) == {}


@pytest.mark.parametrize("num_shards", [1, 3, 4])
def test_killed_preparation_reuses_finished_shards(
    store: Store, spec: DataSpec, begin: Begin, num_shards: int
) -> None:
    """No image of a finished shard is decoded again, and the artifact is the same."""
    undisturbed = finish(begin(store)[0])
    store.delete([Layout.manifest("data", spec.id)])
    stop_after(begin(store)[0], num_shards=num_shards, store=store, spec=spec)
    second, sources = begin(store)
    manifest = finish(second)
    assert num_asked(sources) == 41 - {1: 10, 3: 25, 4: 35}[num_shards]
    assert manifest.files == undisturbed.files
    assert manifest.attempt != undisturbed.attempt
    assert in_flight(store, spec) == {}


def torn(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    return content[:-400] + bytes([content[-400] ^ 1]) + content[-399:]


@pytest.mark.parametrize("damage", [torn, flipped, lambda _: b""], ids=["torn", "flipped", "empty"])
def test_damaged_shard_costs_time_only(
    store: Store,
    spec: DataSpec,
    begin: Begin,
    damage: Callable[[bytes], bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A damaged shard is refused with a warning in the log and made again."""
    stop_after(begin(store)[0], num_shards=3, store=store, spec=spec)
    key = in_flight(store, spec)["train-00001"]
    store.put(key, damage(store.get(key)))
    second, sources = begin(store)
    manifest = finish(second)
    assert num_asked(sources) == 10 + 16
    assert "is refused: its content has sha256" in caplog.text
    assert Artifacts(store).check("data", manifest.id).problem is None  # type: ignore[union-attr]
    assert in_flight(store, spec) == {}


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """The differences between a shard and the first shard of the training images."""

    why: str
    about: Mapping[str, str] = field(default_factory=dict)
    num: int = 10
    labels: Mapping[int, int] = field(default_factory=dict)


@pytest.fixture
def put_foreign(store: Store, spec: DataSpec, tmp_path: Path) -> Callable[[Foreign], None]:
    """Returns a function that writes such a shard under a key with its own digest."""

    def put(foreign: Foreign) -> None:
        sizes = {name: len(split) for name, split in WHOLE.items()}
        positions = select_images(sizes, spec=spec)["train"].positions[: foreign.num]
        labels = WHOLE["train"].labels[positions]
        for position, label in foreign.labels.items():
            labels[position] = label
        about = {"data": spec.id, "split": "train", "shard": "0", **foreign.about}
        images = np.zeros((foreign.num, SIZE, SIZE, 3), np.uint8)
        write_shard(tmp_path / "x.arrow", images, labels, about=about)
        sha256 = hashlib.sha256((tmp_path / "x.arrow").read_bytes()).hexdigest()
        key = Layout.shard(spec.id, split="train", number=0, sha256=sha256)
        store.upload(key, tmp_path / "x.arrow")

    return put


FOREIGN = [
    Foreign(about={"data": "0" * 16}, why="it describes itself as {'data': '0000"),
    Foreign(about={"shard": "1"}, why="'shard': '1'"),
    Foreign(num=9, why=r"its images have shape \(9, 8, 8, 3\), not \(10, 8, 8, 3\)"),
    Foreign(labels={0: 99}, why="its labels differ from the task's"),
]


@pytest.mark.parametrize("foreign", FOREIGN, ids=["task", "number", "size", "labels"])
def test_foreign_shard_is_refused(
    store: Store,
    begin: Begin,
    put_foreign: Callable[[Foreign], None],
    caplog: pytest.LogCaptureFixture,
    foreign: Foreign,
) -> None:
    """A shard of other images or labels is refused although its digest is right."""
    put_foreign(foreign)
    preparation, sources = begin(store)
    finish(preparation)
    assert num_asked(sources) == 41
    assert re.search(f"is refused: .*{foreign.why}", caplog.text)


def test_image_that_cannot_be_decoded_keeps_finished_shards(
    store: Store, spec: DataSpec, begin: Begin
) -> None:
    """After the image is repaired, the preparation continues with the finished shards."""
    preparation, _ = begin(store, fails_at=24)
    with pytest.raises(ImageSourceError, match="is torn"):
        finish(preparation)
    assert sorted(in_flight(store, spec)) == SHARDS[:2]
    second, sources = begin(store)
    finish(second)
    assert num_asked(sources) == 5 + 16


def test_store_that_takes_no_shard_is_no_error(
    store: Store, spec: DataSpec, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A preparation succeeds without shards in flight if its commit succeeds."""
    upload = store.upload

    def fail_in_flight(key: str, path: Path) -> None:
        if key.startswith("in-flight/"):
            raise StoreUnavailableError("down for a minute")
        upload(key, path)

    monkeypatch.setattr(store, "upload", fail_in_flight)
    assert finish(begin(store)[0]).outcome == "done"
    assert in_flight(store, spec) == {}


def test_rival_that_was_first_wins(store: Store, spec: DataSpec, begin: Begin) -> None:
    """The first worker removes the shards in flight; the second returns its manifest."""
    stop_after(begin(store)[0], num_shards=4, store=store, spec=spec)
    second = begin(store)[0].run()
    for _ in range(4):
        next(second)  # it has found the four shards
    winner = finish(begin(store)[0])
    *_, last = second
    assert last.committed == winner


def test_progress_counts_found_and_decoded_images(
    store: Store, spec: DataSpec, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reports count images of found shards first, then decoded images with their rate."""
    monkeypatch.setattr("workers.prepare.images.REPORT_EVERY_S", 0.0)
    stop_after(begin(store)[0], num_shards=3, store=store, spec=spec)
    reports = list(begin(store)[0].run())
    assert [report.num_done for report in reports] == [10, 20, 25, 35, 41, 41]
    assert {report.num_images for report in reports} == {41}
    assert [report.images_per_s > 0 for report in reports] == [False] * 3 + [True] * 3
    assert [report.committed is not None for report in reports] == [False] * 5 + [True]


def test_local_store_keeps_no_second_copy_on_the_way(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished shards are in the store and no longer in the temporary directory."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    store, found = LocalStore(tmp_path / "store"), []
    upload = store.upload

    def look(key: str, path: Path) -> None:
        found.append(sorted(each.name for each in (tmp_path / "scratch").rglob("*.arrow")))
        upload(key, path)

    monkeypatch.setattr(store, "upload", look)
    finish(begin(store)[0])
    assert [len(names) for names in found[:4]] == [1] * 4


@pytest.mark.parametrize("num_shards", [0, 2, 4])
def test_equal_images_are_counted_whether_decoded_or_found(
    store: Store, spec: DataSpec, begin: Begin, monkeypatch: pytest.MonkeyPatch, num_shards: int
) -> None:
    """A preparation that another one began has the metrics of an undisturbed one."""
    chosen = select_images({name: len(split) for name, split in WHOLE.items()}, spec=spec)
    (first, *_), (_, second, *_) = (each.positions.tolist() for each in chosen.values())
    pixels = WHOLE["test"].images.copy()
    pixels[second] = WHOLE["train"].images[first]
    monkeypatch.setitem(WHOLE, "test", Split(images=pixels, labels=WHOLE["test"].labels))
    if num_shards:
        stop_after(begin(store)[0], num_shards=num_shards, store=store, spec=spec)
    metrics = DataMetrics.from_json(finish(begin(store)[0]).metrics)
    assert metrics.shared == ImagePairs(
        num_images=1, first=((f"image {first}", f"image {second}"),)
    )
    assert metrics.contradictions == ImagePairs(num_images=0, first=())
    assert metrics.class_counts is not None
    for name, selection in chosen.items():
        labels = WHOLE[name].labels[selection.positions]
        counts = np.bincount(labels, minlength=TASK.num_classes)
        assert metrics.class_counts[name] == tuple(counts.tolist())


def test_manifests_of_earlier_releases_lack_counts_and_pairs() -> None:
    """Metrics without the later fields are read, and the fields are None."""
    old = {"num_classes": 10, "num_train": 25, "num_test": 16, "images_per_shard": 10}
    metrics = DataMetrics.from_json(old)
    assert (metrics.num_train, metrics.num_test, metrics.num_classes) == (25, 16, 10)
    assert metrics.class_counts is metrics.shared is metrics.contradictions is None
