"""The digest of the weights of a merge, by which a merge that is made again is compared."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from workers.merging.surgery import Adapter


class WeightsDigest:
    """A sha256 over the models of a merge, in the order in which they are evaluated.

    It covers names, types, shapes and bits of all tensors of each model, and the adapters of
    surgery. It does not cover heads and running statistics per task, which are the experts' own.
    The layout in memory makes no difference. It takes 1 to 1.2 s of CPU time for 1 GB.
    """

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        """Adds the tensors of one model, in the order of their names."""
        for name, tensor in sorted(tensors.items()):
            about = f"{name} {tensor.dtype} {tuple(tensor.shape)}\n"
            self._sha256.update(about.encode())
            content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            self._sha256.update(content.numpy().data)

    def add_adapter(self, adapter: Adapter | None) -> None:
        """Adds the adapter of a task, if it has one."""
        if adapter is not None:
            self.add({"down": adapter.down, "up": adapter.up})

    def hexdigest(self) -> str:
        """Returns the digest, 64 hexadecimal digits."""
        return self._sha256.hexdigest()
