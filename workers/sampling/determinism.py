"""Equal specifications give equal bits: what torch must be told for that."""

import os

import torch


def compute_deterministically() -> None:
    """Makes torch choose deterministic kernels in this process, or raise where there are none.

    Memory is not filled before use, which torch does by default in this mode: no result here reads
    memory that it has not written, and filling took 15 % of an evaluation on CPU.
    """
    # cuBLAS needs this before its first call to give the same bits every time.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(mode=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
