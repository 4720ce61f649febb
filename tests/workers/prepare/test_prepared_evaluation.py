"""Prepared images give the same scores as the original files, bit for bit."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from eval.evaluate import evaluate
from eval.images.decoding import resized
from eval.images.split import Split
from eval.metrics import TaskSums
from eval.suites import find_task
from merge.catalogue import parse_params
from merge.merge import MergeOptions, merge
from workers.models.backbones import Backbone, create_backbone
from workers.prepare.images import ImagePreparation, OpenedTask
from workers.sampling.data_selection import select_images
from workers.specs.data import DataSpec
from workers.workspace import Workspace

CPU = torch.device("cpu")
SIZE = 32
NUM_IMAGES = {"train": 40, "test": 90}
TASK = find_task("bluemarble_regions")
SHARD_BYTES = 13 * SIZE * SIZE * 3
"""Thirteen images, so that batches of 32 lie in three or four shards."""


class Folder:
    """A folder of image files of many shapes, of which every third is grey."""

    def __init__(self, folder: Path, *, seed: int, num_images: int) -> None:
        rng = np.random.default_rng(seed)
        folder.mkdir()
        self.labels: NDArray[np.int64] = rng.integers(0, TASK.num_classes, num_images)
        self._paths = [folder / f"{number}.png" for number in range(num_images)]
        for number, path in enumerate(self._paths):
            height, width = rng.integers(20, 70, 2)
            shape = (height, width) if number % 3 == 0 else (height, width, 3)
            Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)

    def image(self, index: int) -> NDArray[np.uint8]:
        """Decodes a file."""
        with Image.open(self._paths[index]) as picture:
            pixels = np.asarray(picture)
        return pixels[..., np.newaxis] if pixels.ndim == 2 else pixels

    def name(self, index: int) -> str:
        """Returns the name of a file."""
        return self._paths[index].name


@pytest.fixture
def sources(tmp_path: Path) -> Mapping[str, Folder]:
    """Writes the image files of both splits."""
    return {
        name: Folder(tmp_path / name, seed=seed, num_images=NUM_IMAGES[name])
        for seed, name in enumerate(NUM_IMAGES)
    }


@pytest.fixture
def merged() -> tuple[Backbone, nn.Linear]:
    """Returns the average of two networks and a head."""
    states = [
        dict(create_backbone("test_efficientnet", seed=seed, device=CPU).module.state_dict())
        for seed in range(3)
    ]
    backbone = create_backbone("test_efficientnet", seed=0, device=CPU)
    params = parse_params("average", {})
    backbone.module.load_state_dict(
        dict(merge(states[0], states[1:], options=MergeOptions(params=params, seed=0)))
    )
    torch.manual_seed(0)
    return backbone, nn.Linear(backbone.num_features, TASK.num_classes)


def test_merged_model_scores_the_same_on_the_store_and_on_the_files(
    datasets: Mapping[str, DataSpec],
    sources: Mapping[str, Folder],
    merged: tuple[Backbone, nn.Linear],
    tmp_path: Path,
) -> None:
    """The sums over memory-mapped shards equal the sums over decoded files, bit for bit."""
    spec = replace(datasets[TASK.name], image_size=SIZE, max_test=80)
    workspace = Workspace(str(tmp_path / "store"), cache_root=tmp_path / "cache", device=CPU)
    *_, last = ImagePreparation(
        OpenedTask(spec=spec, task=TASK, sources=sources),
        artifacts=workspace.artifacts,
        num_threads=2,
        shard_bytes=SHARD_BYTES,
    ).run()
    assert last.committed is not None
    assert len(last.committed.files) == 4 + 7

    def sums(split: Split) -> TaskSums:
        backbone, head = merged
        normalization = backbone.normalization
        return evaluate(backbone.module, head, split=split, normalization=normalization, device=CPU)

    positions = select_images(NUM_IMAGES, spec=spec)["test"].positions
    source = sources["test"]
    decoded = [resized(source.image(i), image_size=SIZE, channels=3) for i in positions]
    straight = Split(images=np.stack(decoded), labels=source.labels[positions])
    assert sums(workspace.split(spec.id, "test")) == sums(straight)
    assert sums(straight).num_examples == 80
    turned = Split(images=np.stack(decoded[::-1]), labels=straight.labels)
    assert sums(turned) != sums(straight)
