"""Representation surgery: small maps that move a merged model's features towards an expert's."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from workers.sampling.batches import batch_positions
from workers.sampling.seeds import derive_seed
from workers.specs.merge import SurgerySpec


def operate(features: Tensor, *, target: Tensor, surgery: SurgerySpec, seed: int) -> Tensor:
    """Returns features z moved towards a target's: z - W_up ReLU(W_down z), trained on them.

    No label is read; the images are those that the features are evaluated on. W_up starts at zero,
    so that features which are the target's already stay as they are.

    Args:
        features: The merged model's, of all test images of a task.
        target: The expert's, of the same images.
        surgery: The adapter's width and its training by Adam.
        seed: Of W_down and of the order of the images.

    Shapes:
        features, target, returns: (images, features), float32.
    Source: Yang 2024, arXiv:2402.02705, equation 3, with the L1 distance; W_down is uniform as
        torch's linear layers are, as in the authors' code.
    """
    down, up = _maps(features, rank=surgery.rank, seed=seed)
    optimizer = torch.optim.Adam([down, up], lr=surgery.lr, betas=(0.9, 0.999), fused=True)
    for rows in _batches(len(features), surgery=surgery, seed=seed):
        here = rows.to(features.device)
        moved = _adapted(features[here], down=down, up=up)
        optimizer.zero_grad(set_to_none=True)
        nn.functional.l1_loss(moved, target[here]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.inference_mode():
        return _adapted(features, down=down, up=up)


def _maps(features: Tensor, *, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """Returns W_down and W_up at the start, drawn on the CPU for all devices alike.

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
    everything = np.arange(num_images)
    for step in range(surgery.steps):
        rows = batch_positions(everything, step=step, batch_size=surgery.batch_size, seed=seed)
        yield torch.from_numpy(rows)


def _adapted(features: Tensor, *, down: Tensor, up: Tensor) -> Tensor:
    return features - torch.relu(features @ down.T) @ up.T
