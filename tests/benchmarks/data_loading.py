"""Measures how fast prepared images give batches, compared with torchvision decoding files.

The same JPEG files are read in two ways: by an `ImageFolder` with a `DataLoader` (resize, crop, to
tensor, normalize), and from prepared, memory-mapped shards. Both give normalized batches of 224
pixels in a shuffled order. For the cold pass, the files are removed from the page cache first. All
passes run one after another in this process.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from eval.images.shards import open_split, shard_names
from eval.model_inputs import Normalization, to_inputs
from eval.suites import find_task
from eval.tasks import Task
from workers.artifacts.artifacts import Artifacts
from workers.artifacts.node_cache import NodeCache
from workers.prepare.images import ImagePreparation, OpenedTask
from workers.specs.data import DataSpec
from workers.store.local import LocalStore

IMAGE_SIZE, BATCH_SIZE, NUM_CLASSES = 224, 64, 10
SHORT_SIDE, LONG_SIDE = (256, 384), (384, 512)
NORMALIZATION = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
TASK: Task = replace(
    find_task("bluemarble_regions"), classes=tuple(f"class_{n}" for n in range(NUM_CLASSES))
)
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Pass:
    """The measured speeds of one way to read all images."""

    what: str
    cold_per_s: float
    """Images per second with files that are not in the page cache."""
    warm_per_s: float
    """Images per second in the second pass."""
    warm_cpu_ms: float
    """CPU time per image of the second pass, of this process and its loader's workers, in ms."""


class Files:
    """Image files as a source for the preparation."""

    def __init__(self, paths: list[Path], labels: np.ndarray) -> None:
        """Takes the files and labels of one split."""
        self.labels = labels
        self._paths = paths

    def image(self, index: int) -> np.ndarray:
        """Decodes one file."""
        with Image.open(self._paths[index]) as picture:
            return np.asarray(picture.convert("RGB"))

    def name(self, index: int) -> str:
        """Returns the name of one file."""
        return self._paths[index].name


def write_files(folder: Path, *, num_images: int) -> Files:
    """Writes smooth random pictures as JPEG files, with one folder per class."""
    rng = np.random.default_rng(0)
    paths, labels = [], np.arange(num_images, dtype=np.int64) % NUM_CLASSES
    for number, label in enumerate(labels):
        size = (int(rng.integers(*LONG_SIDE)), int(rng.integers(*SHORT_SIDE)))
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        path = folder / f"class_{label}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse.resize(size, Image.Resampling.BICUBIC).save(path, quality=90)
        paths.append(path)
    return Files(paths, labels)


def prepare(files: Files, *, root: Path) -> tuple[list[Path], float]:
    """Prepares the files as training images; returns the shards and the seconds."""
    spec = DataSpec(
        task=TASK.name,
        fingerprint="benchmark",
        image_size=IMAGE_SIZE,
        max_train=None,
        max_test=1,
        evaluate_on="test",
    )
    artifacts = Artifacts(LocalStore(root))
    started_s = time.perf_counter()
    *_, last = ImagePreparation(
        OpenedTask(spec=spec, task=TASK, sources={"train": files, "test": files}),
        artifacts=artifacts,
        num_threads=torch.get_num_threads(),
    ).run()
    seconds = time.perf_counter() - started_s
    assert last.committed is not None
    names = shard_names((file.name for file in last.committed.files), split="train")
    cache = NodeCache(root / "cache")
    return [artifacts.fetch(last.committed, name, cache) for name in names], seconds


def mapped_batches(shards: list[Path]) -> Iterator[Tensor]:
    """Yields the batches of a shuffled epoch from shards, as a trial does."""
    split = open_split(shards)
    order = np.random.default_rng(0).permutation(len(split))
    for start in range(0, len(split), BATCH_SIZE):
        batch = split.take(order[start : start + BATCH_SIZE])
        yield to_inputs(batch.images, normalization=NORMALIZATION, device=CPU)


def decoded_batches(folder: Path, *, num_workers: int) -> Iterator[Tensor]:
    """Yields the batches of a shuffled epoch with torchvision's `DataLoader`."""
    preprocessing = transforms.Compose(
        [
            transforms.Resize(IMAGE_SIZE, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(IMAGE_SIZE),
            transforms.ToTensor(),
            transforms.Normalize(NORMALIZATION.mean, NORMALIZATION.std),
        ]
    )
    loader = DataLoader(
        ImageFolder(str(folder), preprocessing),
        batch_size=BATCH_SIZE,
        shuffle=True,
        num_workers=num_workers,
    )
    for images, _ in loader:
        yield images


def measure(what: str, batches: Callable[[], Iterable[Tensor]], *, files: list[Path]) -> Pass:
    """Takes all batches twice, with cold and with warm files."""
    for path in files:
        _drop(path)
    cold_s, _, _ = _seconds(batches())
    warm_s, warm_cpu_s, num_images = _seconds(batches())
    return Pass(
        what=what,
        cold_per_s=num_images / cold_s,
        warm_per_s=num_images / warm_s,
        warm_cpu_ms=warm_cpu_s / num_images * 1000,
    )


def _seconds(batches: Iterable[Tensor]) -> tuple[float, float, int]:
    """Returns the wall and CPU seconds of taking all batches, and the number of images."""
    wall_s, cpu = time.perf_counter(), os.times()
    num_images = sum(len(batch) for batch in batches)
    wall_s, cpu_s = time.perf_counter() - wall_s, sum(os.times()[:4]) - sum(cpu[:4])
    return wall_s, cpu_s, num_images


def _drop(path: Path) -> None:
    """Removes a file from the page cache; the file must not be mapped."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def main() -> None:
    """Prints the table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    num_images = parser.parse_args().images
    torch.set_num_threads(1)  # like a worker with one core; more threads spin on a busy machine
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "files"
        files = write_files(folder, num_images=num_images)
        shards, prepare_s = prepare(files, root=Path(root) / "store")
        paths = sorted(folder.rglob("*.jpg"))
        passes = [measure("ours, mapped", lambda: mapped_batches(shards), files=shards)]
        passes += [
            measure(
                f"ImageFolder, {num_workers} workers",
                lambda number=num_workers: decoded_batches(folder, num_workers=number),
                files=paths,
            )
            for num_workers in (0, 2)
        ]
    print(f"{num_images} images; preparing them once took {prepare_s:.1f} s")  # noqa: T201 its output
    print("| batches of 64 at 224 pixels | cold | warm | CPU, warm | CPU against ours |")  # noqa: T201 as above
    print("| --- | ---: | ---: | ---: | ---: |")  # noqa: T201 as above
    for each in passes:
        cold, warm = (f"{speed:,.0f} images/s" for speed in (each.cold_per_s, each.warm_per_s))
        ratio = each.warm_cpu_ms / passes[0].warm_cpu_ms
        print(f"| {each.what} | {cold} | {warm} | {each.warm_cpu_ms:.2f} ms | {ratio:.1f} |")  # noqa: T201 as above


if __name__ == "__main__":
    main()
