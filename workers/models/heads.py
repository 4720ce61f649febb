"""The classifiers of tasks: linear maps of features, or cosine heads like CLIP's."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from eval.counts import first_names
from workers.models.fitted_weights import FLOATS, FittedWeights
from workers.models.pretrained_weights import WeightsError

_MATRIX_DIMS = 2


class CosineHead(nn.Linear):
    """A classifier whose logits are scaled cosines of features and weights; it is never trained."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__(num_features, num_classes, bias=False)
        self.requires_grad_(requires_grad=False)

    def forward(self, features: Tensor) -> Tensor:
        """Returns logits.

        Shapes:
            features: (batch, num_features).
            returns: (batch, num_classes).
        """
        return super().forward(nn.functional.normalize(features, dim=-1))


def head_of(tensors: Mapping[str, Tensor]) -> nn.Linear:
    """Returns the classifier with the given tensors; without a bias it is a `CosineHead`."""
    num_classes, num_features = tensors["weight"].shape
    kind = nn.Linear if "bias" in tensors else CosineHead
    head = kind(num_features, num_classes)
    head.load_state_dict(dict(tensors))
    return head


def classifier_of(
    fitted: FittedWeights, *, num_classes: int, num_features: int | None, shown: str
) -> nn.Linear:
    """Returns the classifier in a file of weights; without a bias in the file it is zero.

    Args:
        fitted: The file's tensors.
        num_classes: Classes of the task. Their order must be the task's, which no file tells.
        num_features: Width of the backbone's features; None to take any.
        shown: The file's name in messages.

    Raises:
        WeightsError: The file has no classifier, several, or one of another size or of several
            layers, or its numbers are not finite floats.
    """
    found = {
        name: tensor.flatten(1)
        for name, tensor in fitted.classifier.items()
        if name.endswith("weight") and tensor.ndim >= _MATRIX_DIMS
    }
    if len(found) != 1:
        has = f"several classifiers ({', '.join(found)})" if found else "no classifier"
        raise WeightsError(
            f"{shown}: holds {has}; leave `head: file` out, so that a linear probe of its features "
            "is fitted, or save the whole model"
        )
    ((name, weight),) = found.items()
    if len(weight) != num_classes:
        raise WeightsError(
            f"{shown}: its classifier {name} has {len(weight)} classes, and the task has "
            f"{num_classes}; leave `head: file` out, or use a model of this task"
        )
    if num_features is not None and weight.shape[1] != num_features:
        raise WeightsError(
            f"{shown}: its classifier {name} takes {weight.shape[1]} features, and the backbone "
            f"has {num_features}; leave `head: file` out"
        )
    bias_name = f"{name.removesuffix('weight')}bias"
    parts = {
        part: fitted.classifier[part] for part in (name, bias_name) if part in fitted.classifier
    }
    if further := [part for part in fitted.classifier if part not in parts]:
        raise WeightsError(
            f"{shown}: its classifier is more than one linear layer, as it also has "
            f"{first_names(further)}; leave `head: file` out"
        )
    _check_numbers(parts, num_classes=num_classes, shown=shown)
    head = nn.Linear(weight.shape[1], num_classes)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.zero_() if bias_name not in parts else head.bias.copy_(parts[bias_name])
    return head


def _check_numbers(parts: Mapping[str, Tensor], *, num_classes: int, shown: str) -> None:
    """Checks that a classifier's weight and bias hold finite floats, and the bias one per class.

    Raises:
        WeightsError: They do not.
    """
    for name, tensor in parts.items():
        if name.endswith("bias") and tensor.shape != (num_classes,):
            raise WeightsError(
                f"{shown}: {name} has shape {tuple(tensor.shape)}, expected ({num_classes},); "
                "leave `head: file` out"
            )
        if tensor.dtype not in FLOATS or not bool(tensor.float().isfinite().all()):
            dtype = str(tensor.dtype).removeprefix("torch.")
            holds = f"is {dtype}" if tensor.dtype not in FLOATS else "holds NaN or infinite values"
            raise WeightsError(
                f"{shown}: {name} {holds}, and must hold finite floats; leave `head: file` out, or "
                "save the classifier as float32"
            )
