"""Settings of torch under which equal specifications give equal bits."""

import os

import torch


def compute_deterministically() -> None:
    """Makes torch use deterministic kernels in this process, and raise if there is none.

    By default, torch also fills uninitialized memory in this mode. This is switched off: no result
    depends on uninitialized memory, and filling it took 15 % of an evaluation on CPU.
    """
    # cuBLAS is only deterministic if this is set before its first call.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(mode=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
