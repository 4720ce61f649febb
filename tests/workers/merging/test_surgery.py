from dataclasses import replace

import pytest
import torch
from torch import Tensor

from workers.merging.surgery import train_adapter
from workers.specs.merge import SurgerySpec

SURGERY = SurgerySpec(rank=4, steps=200, lr=0.01, batch_size=16)


@pytest.fixture
def features() -> Tensor:
    """Returns features of 60 images, not negative, as a pooling layer gives them."""
    return torch.rand(60, 24, generator=torch.Generator().manual_seed(0))


def distance(features: Tensor, target: Tensor) -> float:
    return float((features - target).abs().mean())


def test_constant_bias_between_representations_is_removed(features: Tensor) -> None:
    """Surgery is meant for this case: the same features are too large on all images."""
    bias = torch.zeros(24)
    bias[:6] = 2.0
    target = features - bias
    moved = train_adapter(features, target=target, surgery=SURGERY, seed=0).adapted(features)
    assert distance(moved, target) < 0.2 * distance(features, target)


def test_features_that_are_the_targets_stay_as_they_are(features: Tensor) -> None:
    """W_up starts at zero, and its gradient is zero."""
    assert torch.equal(
        train_adapter(features, target=features, surgery=SURGERY, seed=0).adapted(features),
        features,
    )


def test_first_step_by_hand() -> None:
    """One step of Adam moves W_up by the learning rate, against the gradient's sign.

    Features of one image (1), W_down d, target 0: where d is positive, W_up becomes +lr, and the
    adapted feature 1 - lr * d. Where d is negative the unit is silent.
    """
    surgery = SurgerySpec(rank=1, steps=1, lr=0.5, batch_size=1)
    one, zero = torch.ones(1, 1), torch.zeros(1, 1)
    moved = [
        float(train_adapter(one, target=zero, surgery=surgery, seed=seed).adapted(one))
        for seed in range(20)
    ]
    silent = [value for value in moved if value == 1]
    assert 0 < len(silent) < 20
    assert all(0.5 < value < 1 for value in moved if value not in silent)


def test_same_seed_gives_the_same_bits_whatever_the_global_one(features: Tensor) -> None:
    """The initial W_down and the order of the images depend on the seed alone."""
    target = features.flip(1)
    results = []
    for global_seed, seed in ((1, 5), (2, 5), (1, 6)):
        torch.manual_seed(global_seed)
        results.append(
            train_adapter(features, target=target, surgery=SURGERY, seed=seed).adapted(features)
        )
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_change_has_the_rank_of_the_adapter(features: Tensor) -> None:
    """The number of features does not matter."""
    target = features.flip(1)
    for rank in (1, 4):
        surgery = replace(SURGERY, rank=rank)
        change = (
            train_adapter(features, target=target, surgery=surgery, seed=0).adapted(features)
            - features
        )
        assert int(torch.linalg.matrix_rank(change, rtol=1e-4)) <= rank


def test_fewer_images_than_a_batch_are_repeated() -> None:
    """A task with three test images has batches of sixteen too."""
    features = torch.rand(3, 24, generator=torch.Generator().manual_seed(0))
    target = torch.zeros(3, 24)
    moved = train_adapter(features, target=target, surgery=SURGERY, seed=0).adapted(features)
    assert distance(moved, target) < distance(features, target)


def test_features_computed_without_gradients_can_be_adapted(features: Tensor) -> None:
    """An evaluation computes features in inference mode, without a graph."""
    with torch.inference_mode():
        given, target = features + 0, features * 0
    moved = train_adapter(given, target=target, surgery=SURGERY, seed=0).adapted(given)
    assert torch.equal(given, features)
    assert not moved.requires_grad


def test_collapsed_features_stay_a_result(features: Tensor) -> None:
    """NaN stays NaN, and the scores show it."""
    collapsed = features * float("nan")
    assert (
        train_adapter(collapsed, target=features, surgery=SURGERY, seed=0)
        .adapted(collapsed)
        .isnan()
        .all()
    )
