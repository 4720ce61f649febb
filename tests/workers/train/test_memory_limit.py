"""Real trials on a simulated device of limited memory."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from limited_memory import LimitedMemory

from workers.process import Worker
from workers.specs.expert import ExpertSpec
from workers.specs.training import TrialSpec
from workers.train.memory_limit import device_memory, is_out_of_memory
from workers.train.memory_share import DeviceMemoryError, MemoryShare
from workers.workspace import Workspace

CPU = torch.device("cpu")
BATCH = 64
LIMIT_BYTES = 14_000_000
"""A step on 64 images needs 18 MB."""


@pytest.fixture
def run_within(store_root: Path, make_expert: Callable[..., ExpertSpec]) -> Callable[..., object]:
    """Returns a function that runs a trial in limited memory and returns its manifest."""

    def run(memory: MemoryShare, *, limit_bytes: float = LIMIT_BYTES) -> object:
        spec = TrialSpec(longest=make_expert(batch_size=BATCH), snapshots=(3,))
        worker = Worker(str(store_root), num_cpus=1)
        with LimitedMemory(limit_bytes):
            (progress,) = worker.run_training(spec, report_every_s=1e9, memory=memory)
        return progress.committed[0]

    return run


def test_too_large_a_batch_is_an_error_of_memory(run_within: Callable[..., object]) -> None:
    """The driver recognises the error without loading torch."""
    with pytest.raises(DeviceMemoryError, match="out of memory"):
        run_within(MemoryShare())
    assert DeviceMemoryError.__module__ == "workers.train.memory_share"


def test_micro_batches_fit_where_the_batch_does_not(
    run_within: Callable[..., object], make_expert: Callable[..., ExpertSpec]
) -> None:
    """The expert keeps its id, and its manifest says how it was made."""
    memory = MemoryShare(gpu=1, micro_batch=BATCH // 2, num_refused=3)
    manifest = run_within(memory)
    assert manifest.id == make_expert(batch_size=BATCH).id  # type: ignore[attr-defined]
    expected = {"gpu": 1, "out_of_memory": 3, "micro_batch": BATCH // 2}
    assert manifest.execution == expected  # type: ignore[attr-defined]


def test_manifest_of_a_batch_that_fits_is_as_before(run_within: Callable[..., object]) -> None:
    """The field is absent from the bytes if there is nothing to say."""
    manifest = run_within(MemoryShare(gpu=0.5), limit_bytes=float("inf"))
    assert manifest.execution == {}  # type: ignore[attr-defined]
    assert b"execution" not in manifest.to_json()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError("out of memory"), False),
    ],
)
def test_errors_of_memory_are_told_from_others(error: Exception, *, expected: bool) -> None:
    """Libraries below torch raise plain errors with their own words."""
    assert is_out_of_memory(error) is expected


def test_other_errors_pass(workspace: Workspace) -> None:
    """Only errors of memory are translated."""

    def failing() -> Iterator[None]:
        with device_memory(MemoryShare(gpu=0.5), device=workspace.device):
            yield
            raise RuntimeError("shapes")

    steps = failing()
    next(steps)
    with pytest.raises(RuntimeError, match="shapes") as error:
        next(steps)
    assert not isinstance(error.value, DeviceMemoryError)


def test_allocation_that_this_machine_refuses_is_an_error_of_memory() -> None:
    """Torch's own allocator says so in words."""
    with pytest.raises(DeviceMemoryError), device_memory(MemoryShare(), device=CPU):
        torch.empty(2**55, dtype=torch.uint8)


def test_worker_with_a_part_of_a_gpu_is_limited_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch checks the arguments; without a GPU, only its last call is replaced."""
    limits: list[tuple[float, int]] = []
    monkeypatch.setattr(torch.cuda.memory, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch._C, "_cuda_setMemoryFraction", lambda *limit: limits.append(limit))
    for gpu in (0.25, 1, 0):
        with device_memory(MemoryShare(gpu=gpu), device=torch.device("cuda")):
            assert limits == [(0.25, 0)]
    with device_memory(MemoryShare(gpu=0.5), device=CPU):
        assert limits == [(0.25, 0)]
