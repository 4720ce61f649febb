"""Representation surgery: trains adapters that move a merged model's features to an expert's."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from workers.sampling.batches import batch_positions
from workers.sampling.seeds import derive_seed
from workers.specs.merge import SurgerySpec
from workers.without_compiler import without_compiler


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """The two trained maps of one task."""

    down: Tensor
    """W_down: (rank, features)."""
    up: Tensor
    """W_up: (features, rank)."""

    def adapted(self, features: Tensor) -> Tensor:
        """Returns z - W_up ReLU(W_down z) for features z.

        Shapes:
            features, returns: (images, features), float32.
        """
        with torch.inference_mode():
            return _adapted(features, down=self.down, up=self.up)


def train_adapter(features: Tensor, *, target: Tensor, surgery: SurgerySpec, seed: int) -> Adapter:
    """Trains an adapter that moves features towards a target.

    The training images are the test images on which the features are evaluated, without labels.
    W_up starts at zero, so that features that equal the target stay unchanged.

    Args:
        features: The merged model's features of all test images of a task.
        target: The expert's features of the same images.
        surgery: The adapter's width and the constants of its training with Adam.
        seed: Seeds W_down and the order of the images.

    Shapes:
        features, target: (images, features), float32.
    Source: Yang 2024, arXiv:2402.02705, equation 3, with the L1 distance. W_down is initialised
        uniformly like torch's linear layers, as in the authors' code.
    """
    down, up = _initial_maps(features, rank=surgery.rank, seed=seed)
    with without_compiler():
        optimizer = torch.optim.Adam([down, up], lr=surgery.lr, betas=(0.9, 0.999), fused=True)
    for rows in _batches(len(features), surgery=surgery, seed=seed):
        batch = rows.to(features.device)
        adapted = _adapted(features[batch], down=down, up=up)
        optimizer.zero_grad(set_to_none=True)
        nn.functional.l1_loss(adapted, target[batch]).backward()  # type: ignore[no-untyped-call]
        with without_compiler():
            optimizer.step()
    return Adapter(down=down.detach(), up=up.detach())


def _initial_maps(features: Tensor, *, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """Returns the initial W_down and W_up, drawn on the CPU so that devices do not differ.

    Shapes:
        W_down: (rank, features). W_up: (features, rank).
    """
    num_features = features.shape[1]
    generator = torch.Generator().manual_seed(derive_seed(seed, "W_down"))
    bound = num_features**-0.5
    down = torch.empty(rank, num_features).uniform_(-bound, bound, generator=generator)
    up = torch.zeros(num_features, rank)
    device = features.device
    return down.to(device).requires_grad_(), up.to(device).requires_grad_()


def _batches(num_images: int, *, surgery: SurgerySpec, seed: int) -> Iterator[Tensor]:
    positions = np.arange(num_images)
    for step in range(surgery.steps):
        rows = batch_positions(positions, step=step, batch_size=surgery.batch_size, seed=seed)
        yield torch.from_numpy(rows)


def _adapted(features: Tensor, *, down: Tensor, up: Tensor) -> Tensor:
    return features - torch.relu(features @ down.T) @ up.T
