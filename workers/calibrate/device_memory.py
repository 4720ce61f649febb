"""Measures the memory of a GPU that a sample needs."""

from typing import Protocol

import torch


class DeviceMemory(Protocol):
    """The memory of a device; tests have a device of their own."""

    def device_bytes(self) -> int | None:
        """Returns the size of the memory; None for a device that is not measured."""

    def process_bytes(self) -> int:
        """Returns the memory in use besides torch's, as of now."""

    def reset_peak(self) -> None:
        """Forgets the peak so far."""

    def peak_bytes(self) -> int | None:
        """Returns the most memory that torch has held since `reset_peak`."""


class CudaMemory:
    """The memory of a GPU, of which this process is the only user."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def device_bytes(self) -> int:
        """Returns the size of the GPU's memory."""
        return int(torch.cuda.mem_get_info(self._device)[1])

    def process_bytes(self) -> int:
        """Returns the memory of the GPU that is neither free nor torch's: CUDA's context."""
        free, total = torch.cuda.mem_get_info(self._device)
        return max(0, int(total - free) - torch.cuda.memory_reserved(self._device))

    def reset_peak(self) -> None:
        """Gives unused memory back to the GPU and forgets the peak so far."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak_bytes(self) -> int:
        """Returns the most memory that torch has held, the gaps between its blocks included."""
        return int(torch.cuda.max_memory_reserved(self._device))


class NoMemory:
    """The memory of a CPU: it is not divided among workers, so it is not measured."""

    def device_bytes(self) -> None:
        """Returns None."""

    def process_bytes(self) -> int:
        """Returns 0."""
        return 0

    def reset_peak(self) -> None:
        """Does nothing."""

    def peak_bytes(self) -> None:
        """Returns None."""


def memory_of(device: torch.device) -> DeviceMemory:
    """Returns the memory of a device."""
    return CudaMemory(device) if device.type == "cuda" else NoMemory()
