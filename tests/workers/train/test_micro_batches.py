"""Batches in parts: the same examples and the same mean, and what differs."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from workers.models.backbones import Backbone
from workers.models.batch_norm import batch_norms, statistics_in_parts
from workers.store.opening import open_store
from workers.train.checkpoints import Checkpoints
from workers.train.trainer import Trainer
from workers.train.trainer_state import model_tensors


def tensors_after(
    trainer: Trainer, *, steps: int, micro_batch: int | None
) -> dict[str, torch.Tensor]:
    trainer.micro_batch = micro_batch
    for _ in range(steps):
        trainer.advance()
    return model_tensors(trainer.backbone.module, trainer.head)


def without_batch_norm(trainer: Trainer) -> Trainer:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten())
    backbone = Backbone(
        module=module, num_features=16, normalization=trainer.backbone.normalization
    )
    return Trainer(
        spec=trainer.spec,
        backbone=backbone,
        head=trainer.head,
        train=trainer.train,
        device=trainer.device,
    )


@pytest.mark.parametrize("micro_batch", [1, 2, 4, 5])
def test_parts_of_a_batch_give_the_gradient_of_its_mean_loss(
    start: Callable[[], Trainer], micro_batch: int
) -> None:
    """Parts of equal and of unequal sizes give the weights and losses of whole batches."""
    whole, parts = without_batch_norm(start()), without_batch_norm(start())
    expected = tensors_after(whole, steps=5, micro_batch=None)
    found = tensors_after(parts, steps=5, micro_batch=micro_batch)
    assert parts.losses == pytest.approx(whole.losses, abs=1e-6)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)


def test_sharpness_aware_steps_take_both_passes_in_parts(
    start: Callable[[], Trainer], make_expert: Callable[..., object]
) -> None:
    """The second pass drops the gradients of the first, whatever the number of parts."""
    trainers = [without_batch_norm(start()) for _ in range(2)]
    for trainer in trainers:
        trainer.spec = make_expert(batch_size=6, steps=10, sam_rho=0.1)  # type: ignore[assignment]
    expected = tensors_after(trainers[0], steps=4, micro_batch=None)
    found = tensors_after(trainers[1], steps=4, micro_batch=2)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)


def test_micro_batch_of_a_whole_batch_changes_no_bit(start: Callable[[], Trainer]) -> None:
    """Batches that fit are not split, BatchNorm's statistics included."""
    expected = tensors_after(start(), steps=4, micro_batch=None)
    found = tensors_after(start(), steps=4, micro_batch=6)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_batch_norm_sees_parts_and_counts_one_batch() -> None:
    """Each part is normalized by itself; running statistics move as far as by one batch."""
    generator = torch.Generator().manual_seed(0)
    parts = (
        torch.randn(3, 4, 2, 1, 1, generator=generator)
        + torch.tensor([0.0, 5.0, 9.0])[:, None, None, None, None]
    )
    norm = nn.BatchNorm2d(2, momentum=0.2)
    norm.running_mean = torch.full((2,), 100.0)
    with statistics_in_parts(norm, num_parts=3):
        outputs = [norm(part) for part in parts]
    assert norm.momentum == 0.2
    assert norm.num_batches_tracked == 1
    for output in outputs:
        torch.testing.assert_close(output.mean(dim=(0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    decay = 0.8 ** (1 / 3)
    means = [part.mean(dim=(0, 2, 3)) for part in parts]
    expected = 0.8 * 100 + (1 - decay) * sum(
        decay ** (2 - number) * mean for number, mean in enumerate(means)
    )
    torch.testing.assert_close(norm.running_mean, expected)


def test_frozen_batch_norm_is_left_alone() -> None:
    """Layers in evaluation mode have no statistics to move."""
    norm = nn.BatchNorm2d(2).eval()
    with statistics_in_parts(norm, num_parts=3):
        assert norm.momentum == 0.1
        norm(torch.ones(2, 2, 1, 1))
    assert norm.num_batches_tracked == 0
    assert batch_norms(norm) == [norm]


def test_checkpoint_remembers_the_smallest_micro_batch(
    start: Callable[[], Trainer], tmp_path: Path
) -> None:
    """A training that goes on with whole batches still says that some were split."""
    checkpoints = Checkpoints(open_store(str(tmp_path)), training_id="a" * 16)
    first = start()
    tensors_after(first, steps=2, micro_batch=3)
    first.micro_batch = 4
    first.advance()
    assert checkpoints.write(first, seconds=1.0)
    later = start()
    checkpoints.refresh()
    assert checkpoints.restore(later, max_step=10) == 1.0
    later.advance()
    assert (first.least_micro_batch, later.step, later.least_micro_batch) == (3, 4, 3)
