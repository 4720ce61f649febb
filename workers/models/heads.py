"""The classifiers of tasks: linear maps of features, or cosine heads like CLIP's."""

from collections.abc import Mapping

from torch import Tensor, nn


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
