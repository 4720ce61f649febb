"""Two policies for the BatchNorm statistics of a merged model: `recalibrate` and `per_task`.

They need images, or the task under evaluation. The other policies are arithmetic on the experts'
statistics and are in `merge.buffers`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from eval.images.split import Split
from eval.model_inputs import to_inputs
from merge.buffers import is_statistic
from workers.models.backbones import Backbone
from workers.models.tied_weights import own_state

BATCH_SIZE = 64
"""Least number of images of a recalibration batch; the same on every device, because the result
depends on it."""


def recalibrate(backbone: Backbone, *, images: Sequence[Split], device: torch.device) -> None:
    """Re-estimates the BatchNorm statistics of a backbone on unlabelled images, in place.

    Every batch has the same fraction of each task's images, so that the variance includes the
    differences between tasks. The statistics are plain averages over the batches.

    Args:
        backbone: A backbone that is not linearised; it is in evaluation mode afterwards.
        images: The images of each task, in the order of the tasks.
        device: Device of the backbone.
    """
    norms = batch_norms(backbone.module)
    momenta = [norm.momentum for norm in norms]
    backbone.module.eval()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average instead of an exponential one
            norm.train()
        with torch.no_grad():
            for inputs in _mixed_batches(images, backbone=backbone, device=device):
                backbone.module(inputs)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        backbone.module.eval()


def copy_statistics(tensors: Mapping[str, Tensor], *, module: nn.Module) -> None:
    """Copies running statistics from the tensors of another model to a module, in place."""
    destination = own_state(module)
    with torch.no_grad():
        for name, tensor in destination.items():
            if tensor.is_floating_point() and is_statistic(name, state=destination):
                tensor.copy_(tensors[name])


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Keeps BatchNorm layers in training mode from updating their statistics inside the context.

    They still normalize by the batch. Layers in evaluation mode still normalize by their
    statistics.
    """
    training = [norm for norm in batch_norms(module) if norm.training and norm.track_running_stats]
    for norm in training:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in training:
            norm.track_running_stats = True


@contextmanager
def statistics_in_parts(module: nn.Module, *, num_parts: int) -> Iterator[None]:
    """Lets BatchNorm layers in training mode see one batch in parts inside the context.

    A layer normalizes each part by the part's own mean and variance. Its running statistics keep
    `(1 - momentum)` of their value, as after one batch, and get the mean over the parts; later
    parts weigh slightly more. It counts the parts as one batch.
    """
    norms = [norm for norm in batch_norms(module) if norm.training and norm.track_running_stats]
    if num_parts == 1 or not norms:
        yield
        return
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked.clone() for norm in norms]  # type: ignore[union-attr]
    for norm in norms:
        if norm.momentum is not None:
            norm.momentum = 1 - (1 - norm.momentum) ** (1 / num_parts)
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count + 1)  # type: ignore[union-attr]


def batch_norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Returns a model's BatchNorm layers."""
    kind = nn.modules.batchnorm._BatchNorm  # noqa: SLF001 their common class has no other name
    return [each for each in module.modules() if isinstance(each, kind)]


def _mixed_batches(
    images: Sequence[Split], *, backbone: Backbone, device: torch.device
) -> Iterator[Tensor]:
    num_batches = max(1, sum(map(len, images)) // BATCH_SIZE)
    for batch in range(num_batches):
        shares = [
            task.rows(batch * len(task) // num_batches, (batch + 1) * len(task) // num_batches)
            for task in images
        ]
        yield torch.cat(
            [
                to_inputs(share.images, normalization=backbone.normalization, device=device)
                for share in shares
            ]
        )
