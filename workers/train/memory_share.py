"""The part of a GPU that a training may use, and how it fits into it. Free of torch."""

from dataclasses import dataclass


class DeviceMemoryError(RuntimeError):
    """A training needs more memory than its device, or its part of a GPU, has."""


@dataclass(frozen=True, kw_only=True)
class MemoryShare:
    """The memory of one try of a training; no id of an artifact depends on it."""

    gpu: float = 0
    """GPUs of the worker. A worker with a fraction gets this fraction of the GPU's memory."""
    micro_batch: int | None = None
    """Most images of a forward and backward pass; None for the whole batch at once."""
    num_refused: int = 0
    """Smaller shares and larger micro-batches that ran out of memory before."""

    def __str__(self) -> str:
        parts = [f"{self.gpu:g} GPUs"] if self.gpu else []
        if self.micro_batch is not None:
            parts.append(f"micro-batches of {self.micro_batch} images")
        return " and ".join(parts) or "whole batches"

    def execution(self, least_micro_batch: int | None) -> dict[str, float]:
        """Returns `Manifest.execution` of a training; empty if its memory sufficed from the start.

        Args:
            least_micro_batch: The smallest micro-batch of the training's steps, None if none was.
        """
        micro_batch = {} if least_micro_batch is None else {"micro_batch": least_micro_batch}
        if not (self.num_refused or micro_batch):
            return {}
        return {"gpu": self.gpu, "out_of_memory": self.num_refused, **micro_batch}


WHOLE_BATCHES = MemoryShare()
"""A training that runs out of memory if a batch does not fit."""
