from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from eval.images.split import Split
from eval.model_inputs import Normalization
from workers.models.backbones import Backbone
from workers.models.batch_norm import BATCH_SIZE, batch_norms, copy_statistics, recalibrate

CPU = torch.device("cpu")
PLAIN = Normalization(mean=(0.0,) * 3, std=(1.0,) * 3)


class Counting(nn.Module):
    """A model with one BatchNorm layer that records the size and mean of each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.dropout = nn.Dropout(0.5)
        self.batches: list[tuple[int, float]] = []

    def forward(self, images: Tensor) -> Tensor:
        """Returns the images, normalized."""
        self.batches.append((len(images), round(float(images.mean()), 6)))
        normalized: Tensor = self.norm(self.dropout(images))
        return normalized


@pytest.fixture
def backbone() -> Backbone:
    """Returns a model whose BatchNorm statistics differ from those of any image."""
    module = Counting()
    module.norm.running_mean.fill_(50.0)  # type: ignore[union-attr]
    return Backbone(module=module, num_features=3, normalization=PLAIN)


def plain_split(value: int, *, num: int, channels: int = 3) -> Split:
    images = np.full((num, 2, 2, channels), value, dtype=np.uint8)
    return Split(images=images, labels=np.zeros(num, dtype=np.int64))


def test_statistics_are_those_of_all_images_together(backbone: Backbone) -> None:
    """Black and white tasks together have mean 1/2 and variance 1/4; each alone has variance 0."""
    splits = [plain_split(0, num=BATCH_SIZE), plain_split(255, num=BATCH_SIZE, channels=1)]
    recalibrate(backbone, images=splits, device=CPU)
    (norm,) = batch_norms(backbone.module)
    assert isinstance(norm.running_mean, Tensor)
    assert isinstance(norm.running_var, Tensor)
    torch.testing.assert_close(norm.running_mean, torch.full((3,), 0.5))
    torch.testing.assert_close(norm.running_var, torch.full((3,), 0.25), rtol=0.01, atol=0)


@pytest.mark.parametrize(
    ("sizes", "batches"),
    [
        ((64, 64), [(64, 0.5), (64, 0.5)]),
        ((65, 65), [(64, 0.5), (66, 0.5)]),
        ((1, 1), [(2, 0.5)]),
        ((96, 32), [(64, 0.25), (64, 0.25)]),
    ],
)
def test_every_batch_has_the_same_fraction_of_each_task(
    backbone: Backbone, sizes: tuple[int, int], batches: list[tuple[int, float]]
) -> None:
    """No batch has a single image, which BatchNorm would refuse."""
    splits = [plain_split(0, num=sizes[0]), plain_split(255, num=sizes[1])]
    recalibrate(backbone, images=splits, device=CPU)
    assert isinstance(backbone.module, Counting)
    assert backbone.module.batches == batches


def test_momentum_and_mode_are_restored(backbone: Backbone) -> None:
    """Later trials of the process train with the layers' own momentum."""
    recalibrate(backbone, images=[plain_split(9, num=4)], device=CPU)
    (norm,) = batch_norms(backbone.module)
    assert norm.momentum == 0.1
    assert not norm.training


def test_momentum_and_mode_are_restored_after_an_error(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All jobs of a process share the model, so a failed job must not affect the others."""

    def fail(_images: Tensor) -> Tensor:
        raise MemoryError

    monkeypatch.setattr(backbone.module, "forward", fail)
    with pytest.raises(MemoryError):
        recalibrate(backbone, images=[plain_split(9, num=4)], device=CPU)
    (norm,) = batch_norms(backbone.module)
    assert norm.momentum == 0.1
    assert not norm.training


def test_only_running_statistics_are_copied(backbone: Backbone) -> None:
    """Means and variances change; weights do not."""
    other = Counting().state_dict()
    for name in other:
        other[name] = torch.full_like(other[name], 7)
    copy_statistics(other, module=backbone.module)
    state = backbone.module.state_dict()
    assert state["norm.running_mean"].tolist() == [7.0] * 3
    assert state["norm.running_var"].tolist() == [7.0] * 3
    assert state["norm.weight"].tolist() == [1.0] * 3


@pytest.mark.parametrize(
    ("make", "num"), [(nn.BatchNorm1d, 1), (nn.SyncBatchNorm, 1), (nn.InstanceNorm2d, 0)]
)
def test_batch_norm_layers_are_found_by_their_class(
    make: Callable[[int], nn.Module], num: int
) -> None:
    """All classes of BatchNorm are found, and no other normalization."""
    assert len(batch_norms(nn.Sequential(make(3), nn.ReLU()))) == num
