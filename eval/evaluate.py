"""Evaluates a model on a task's test images."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from eval.images.split import Split
from eval.metrics import TaskSums
from eval.model_inputs import Normalization, to_inputs

CPU_BATCH_SIZE = 32
"""Small batches stay in the CPU's cache: 32 was 1.2 to 1.4 times faster than 64 to 256, at 64
pixels."""
CUDA_BATCH_SIZE = 512


def evaluate(
    backbone: nn.Module,
    head: nn.Module,
    *,
    split: Split,
    normalization: Normalization,
    device: torch.device,
) -> TaskSums:
    """Sums correct answers and cross-entropy over all images of a split.

    It switches the backbone and the head to evaluation mode and leaves them in it. Sums are in
    float64 and in the order of the images, so equal weights give equal bits.

    Shapes:
        backbone: (batch, 3, height, width) to (batch, features).
        head: (batch, features) to (batch, classes).

    Raises:
        ValueError: The split is empty.
    """
    features = features_of(backbone, split=split, normalization=normalization, device=device)
    return evaluate_head(head, features=features, labels=split.labels)


def features_of(
    backbone: nn.Module, *, split: Split, normalization: Normalization, device: torch.device
) -> Tensor:
    """Returns the backbone's features of all images, in the order of the images.

    All features are in memory at once: 82 MB for 10,000 images of 2,048 features.

    Shapes:
        returns: (images, features), float32, on the device.

    Raises:
        ValueError: The split is empty.
    """
    if len(split) == 0:
        raise ValueError("cannot evaluate on an empty split")
    if backbone.training:  # the call visits every module, which takes milliseconds
        backbone.eval()
    with torch.inference_mode(), autocast(device):
        batches = input_batches(split, normalization=normalization, device=device)
        return torch.cat([backbone(inputs).float() for inputs in batches])


def input_batches(
    split: Split, *, normalization: Normalization, device: torch.device
) -> Iterator[Tensor]:
    """Yields all images of a split as inputs of a backbone, batch by batch in their order.

    Shapes:
        yields: (batch, 3, height, width), float32.
    """
    batch_size = CUDA_BATCH_SIZE if device.type == "cuda" else CPU_BATCH_SIZE
    for batch in split.batches(batch_size):
        yield to_inputs(batch.images, normalization=normalization, device=device)


def evaluate_head(head: nn.Module, *, features: Tensor, labels: npt.NDArray[np.int64]) -> TaskSums:
    """Sums correct answers and cross-entropy of a head over features.

    If one of an image's logits is NaN, the image counts as incorrect and the sum of the
    cross-entropy is NaN.

    Shapes:
        features: (images, features).
        labels: (images,).
    """
    head.eval()
    with torch.inference_mode():
        expected = torch.from_numpy(labels.copy()).to(features.device)
        logits = head(features).float()
        losses = nn.functional.cross_entropy(logits, expected, reduction="none")
        # argmax treats NaN as the largest value: with NaN logits it would answer class 0.
        is_answer = ~logits.isnan().any(dim=1)
        return TaskSums(
            num_examples=len(labels),
            num_correct=int(((logits.argmax(dim=1) == expected) & is_answer).sum()),
            loss_sum=float(losses.double().sum()),
        )


def autocast(device: torch.device) -> torch.autocast:
    """Returns bfloat16 autocast on CUDA, and full precision elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
