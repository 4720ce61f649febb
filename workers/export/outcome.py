"""The outcome of an export, without torch: the driver reads it."""

from dataclasses import dataclass
from typing import Literal

Check = Literal["digest", "sums", "file"]
"""The proof that a model is the one that the study evaluated: the digest of its weights, the sums
of its scores, or the digest of its file."""


class DifferentModelError(Exception):
    """A merge that was made again differs from the one that was evaluated."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A model that was written."""

    weights_sha256: str
    """Digest of the weights (`workers.merging.weights_digest`)."""
    check: Check
    device: str
    """Kind of the device on which the model was made again: `cpu` or `cuda`."""
    base_model: str | None
    """Name of the base on Hugging Face's hub, if its weights are those of timm's hub."""
