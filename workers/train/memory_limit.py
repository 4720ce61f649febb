"""Keeps a worker to its part of a GPU's memory, and recognises errors of too little memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from workers.train.memory_share import DeviceMemoryError, MemoryShare

_TEXTS = (
    "out of memory",  # CUDA's own calls, outside of torch's allocator
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "DefaultCPUAllocator: can't allocate memory",
)


@contextmanager
def device_memory(share: MemoryShare, *, device: torch.device) -> Iterator[None]:
    """Limits torch to a part of the GPU inside the context.

    Without the limit, a training that needs more than its part would take the memory of the others
    on the same GPU, and one of these would fail in its place. The limit counts what torch
    allocates. Each process needs some hundred MB more for CUDA itself.

    Raises:
        DeviceMemoryError: The code inside needed more memory than there is.
    """
    if device.type == "cuda" and 0 < share.gpu < 1:
        # Of the current device: torch refuses a device without an index here.
        torch.cuda.set_per_process_memory_fraction(float(share.gpu))
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceMemoryError(str(error)) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether torch, or a library below it, could not allocate memory."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS)
