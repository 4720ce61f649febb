"""Running statistics of a merged model that its experts' own do not give: two of the policies.

`merge.buffers` has the policies that are arithmetic on the experts' statistics; these two need
images, or the task under evaluation.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from eval.images.split import Split
from eval.model_inputs import to_inputs
from workers.models.backbones import Backbone

BATCH_SIZE = 64
"""Images of a recalibration batch, at least; on every device alike, as it enters the result."""

_STATISTICS = (".running_mean", ".running_var")


def recalibrate(backbone: Backbone, *, images: Sequence[Split], device: torch.device) -> None:
    """Estimates BatchNorm statistics anew, in place, on unlabelled images of several tasks.

    Every batch holds its share of every task's images, so that the variance has the differences
    between tasks in it; statistics are plain averages over the batches.

    Args:
        backbone: Not linearised; left in evaluation mode.
        images: The images of each task, in the order of the tasks.
        device: Where the backbone is.
    """
    norms = batch_norms(backbone.module)
    momenta = [norm.momentum for norm in norms]
    backbone.module.eval()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # averages instead of forgetting
            norm.train()
        with torch.no_grad():
            for inputs in _mixed_batches(images, backbone=backbone, device=device):
                backbone.module(inputs)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        backbone.module.eval()


def copy_statistics(tensors: Mapping[str, Tensor], *, module: nn.Module) -> None:
    """Gives a model another's running statistics, in place."""
    destination = module.state_dict()
    with torch.no_grad():
        for name in destination:
            if name.endswith(_STATISTICS):
                destination[name].copy_(tensors[name])


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Lets BatchNorm normalize by the batch without taking it into its statistics, for a while.

    Layers that normalize by their statistics go on to.
    """
    training = [norm for norm in batch_norms(module) if norm.training and norm.track_running_stats]
    for norm in training:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in training:
            norm.track_running_stats = True


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
