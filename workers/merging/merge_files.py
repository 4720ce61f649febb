"""Merges safetensors files into a safetensors file, outside any study."""

import os
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from merge.catalogue import wrong_task
from merge.errors import MergeError, Names
from merge.inputs.codes import check_mergeable
from merge.inputs.matching import check_match
from merge.merge import MergeOptions, merge_groups, merge_tasks
from merge.outliers import Outlier
from merge.weight import State
from workers.merging.merge_inputs import MergeFiles
from workers.models.tensor_files import METADATA_KEY, TensorFile, TensorWriter
from workers.models.tensor_header import Header
from workers.store.output_file import output_file

FORMAT = {"format": "pt"}
"""The metadata entry that readers of safetensors files expect, where the base has none."""
SPARE_FILES = 256
"""Files that a process has open besides those that it merges: libraries, the output."""
DEFERRED_MEMORY_FRACTION = 0.25
"""Part of the machine's memory up to which a result is kept until all tensors are merged."""

Progress = Callable[[float], None]
"""A function that is called with the merged fraction of the model."""


def merge_files(
    files: MergeFiles,
    *,
    headers: Mapping[Path, Header],
    options: MergeOptions,
    progress: Progress,
) -> Sequence[Outlier]:
    """Merges experts tensor by tensor, writes the output atomically and returns its outliers.

    The inputs are memory-mapped, and each merged tensor is written at once, so peak memory is a few
    blocks per thread. A method that completes its tensors only at the end (`may_defer`) keeps the
    result in memory if this takes at most a quarter of the machine's; else it reads the files once
    more.

    Args:
        files: Inputs and output; `check_files` has found no problem.
        headers: The headers of the inputs, as `check_files` has read them.
        options: How to merge.
        progress: Is called after each tensor.

    Raises:
        TensorFileError: A file cannot be read.
        MergeError: The experts do not fit together or cannot be aligned, or the result is not
            finite.
        OutputError: The output cannot be written; a file that was there before is unchanged.
    """
    _allow_open_files(1 + len(files.experts))
    base = TensorFile(files.base, header=headers[files.base])
    opened = [TensorFile(path, prefix=files.prefix, header=headers[path]) for path in files.experts]
    names = Names(base=str(files.base), experts=list(map(str, files.experts)))
    outliers: list[Outlier] = []
    dtype = None if files.dtype is None else getattr(torch, files.dtype)
    options = replace(options, dtype=dtype, on_outlier=outliers.append)
    experts: Sequence[State] = opened
    if files.align:
        experts = _aligned(base, opened, head_dim=files.head_dim, options=options, names=names)
    torch.set_num_threads(1)  # the merge has its own threads, each working on one tensor
    writer = TensorWriter(base.dtypes_and_shapes(floats=dtype), metadata=_metadata(base))
    options = replace(options, may_defer=_may_defer(options, num_bytes=writer.num_bytes))
    merged = _merged(base, experts, task=files.task, options=options, names=names)
    merged = _with_progress(merged, num_entries=base.num_entries, progress=progress)
    with output_file(files.output, num_bytes=writer.num_bytes) as file:
        writer.begin(file)
        if options.may_defer:
            merged = iter(list(merged))
        for name, tensor in merged:
            writer.write(name, tensor, file=file)
    return outliers


def _allow_open_files(num_files: int) -> None:
    """Raises the limit of open files as far as it goes; each mapped file counts as one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = num_files + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def _merged(
    base: State,
    experts: Sequence[State],
    *,
    task: int | None,
    options: MergeOptions,
    names: Names,
) -> Iterator[tuple[str, Tensor]]:
    if task is not None:
        merged = merge_tasks(base, experts, tasks=[task], options=options, names=names)
    else:
        fault = wrong_task(options.params, has_task=False)
        if fault is not None:
            raise MergeError(fault)
        groups = [range(len(experts))]
        merged = merge_groups(base, experts, groups=groups, options=options, names=names)
    return ((name, tensor) for name, (tensor,) in merged)


def _with_progress(
    merged: Iterator[tuple[str, Tensor]], *, num_entries: int, progress: Progress
) -> Iterator[tuple[str, Tensor]]:
    num_merged = 0
    for name, tensor in merged:
        num_merged += tensor.numel()
        progress(num_merged / max(1, num_entries))
        yield name, tensor


def _may_defer(options: MergeOptions, *, num_bytes: int) -> bool:
    """Returns whether to keep the result in memory for a method that completes it at the end."""
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return (
        options.method.deferred_entries is not None
        and options.device.type == "cpu"  # tensors on a GPU are copied at once
        and num_bytes <= DEFERRED_MEMORY_FRACTION * memory_bytes
    )


def _metadata(base: TensorFile) -> dict[str, str]:
    """Returns the base's metadata, except the entry that says which artifact of a study it is."""
    kept = {name: text for name, text in base.metadata.items() if name != METADATA_KEY}
    return FORMAT | kept


def _aligned(
    base: State,
    experts: Sequence[State],
    *,
    head_dim: int | None,
    options: MergeOptions,
    names: Names,
) -> Sequence[State]:
    # Imported here because scipy takes a fifth of the command's start-up time.
    from merge.alignment.aligned import align  # noqa: PLC0415

    # All experts are checked before the first is aligned, which takes seconds each.
    check_mergeable(base, experts=experts, names=names)
    check_match(base, experts=experts, names=names, may_mix_floats=options.dtype is not None)
    return [
        align(base, expert, seed=options.seed, head_dim=head_dim, names=names.of_experts([index]))
        for index, expert in enumerate(experts)
    ]
