"""A device of limited memory on the CPU: counts the bytes of tensors as torch creates them."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LimitedMemory(TorchDispatchMode):
    """Counts the tensors that are made while the mode is active; refuses more than a limit.

    Activations that a backward pass needs, gradients and momenta count, as long as they live.
    """

    def __init__(self, limit_bytes: float = float("inf")) -> None:
        super().__init__()
        self._limit_bytes = limit_bytes
        self._counted: dict[int, int] = {}
        self.in_use_bytes = 0
        self.peak_bytes = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 of any operation
        """Runs an operation and counts its results."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.layout is torch.strided:
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._counted:
            return
        self._counted[key] = size
        weakref.finalize(storage, self._free, key)
        self.in_use_bytes += size
        if self.in_use_bytes > self._limit_bytes:
            raise torch.OutOfMemoryError(
                f"out of memory: {self.in_use_bytes} bytes of {self._limit_bytes:.0f}"
            )
        self.peak_bytes = max(self.peak_bytes, self.in_use_bytes)

    def _free(self, key: int) -> None:
        self.in_use_bytes -= self._counted.pop(key)


class LimitedDevice:
    """The memory of a device for a calibration, counted by a mode that is active."""

    def __init__(self, mode: LimitedMemory, *, device_bytes: int) -> None:
        self._mode = mode
        self._device_bytes = device_bytes

    def device_bytes(self) -> int:
        """Returns the size of the memory."""
        return self._device_bytes

    def process_bytes(self) -> int:
        """Returns 0: there is nothing but tensors."""
        return 0

    def reset_peak(self) -> None:
        """Forgets the peak so far."""
        self._mode.peak_bytes = self._mode.in_use_bytes

    def peak_bytes(self) -> int:
        """Returns the most bytes in use since then."""
        return self._mode.peak_bytes
