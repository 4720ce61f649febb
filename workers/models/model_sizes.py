"""Sizes of timm models, which `workers.check` measures. Free of torch, as the driver uses it."""

from dataclasses import dataclass

HEAD_ENTRY_BYTES = 4  # float32


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """The size of a backbone without its classifier."""

    num_parameters: int
    """Number of trainable weights."""
    parameter_bytes: int
    """Size of the trainable weights."""
    state_bytes: int
    """Size of parameters and buffers, which a checkpoint consists of."""
    num_features: int
    """Width of the features, the inputs of a classifier."""
    flops_per_pixel: float | None
    """Floating point operations of a forward pass over an image of the model's default size,
    divided by the number of pixels; None if the model cannot run on the meta device."""

    def expert_bytes(self, *, num_classes: int) -> int:
        """Returns the size of an expert's tensors: backbone and linear head."""
        return self.state_bytes + HEAD_ENTRY_BYTES * num_classes * (self.num_features + 1)
