"""Merges safetensors files into a safetensors file, outside any study."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from merge.catalogue import method_of
from merge.errors import MergeError
from merge.merge import MergeOptions, merge_groups, merge_tasks
from merge.weight import State
from workers.models.tensor_files import TensorFile
from workers.store.atomic import replacing

METADATA = {"format": "pt"}
"""Metadata that readers of safetensors files expect. One entry only: several would be written in
random order."""

Progress = Callable[[float], None]
"""A function that is called with the merged fraction of the model."""


class MergeFilesError(MergeError):
    """Files that cannot be merged; the message names each with the reason."""


@dataclass(frozen=True, kw_only=True)
class MergeFiles:
    """The files of one merge, and how to read them."""

    base: Path
    experts: Sequence[Path]
    output: Path
    prefix: str = ""
    """Prefix of the experts' tensors to merge, such as `backbone.`; it is removed."""
    align: bool = False
    """Whether to permute each expert's channels into the base's order first."""
    task: int | None = None
    """Position of the expert whose task to build the model for, if the method builds one model per
    task; None for other methods."""


def merge_files(files: MergeFiles, *, options: MergeOptions, progress: Progress) -> None:
    """Merges experts tensor by tensor and writes the output atomically.

    Peak memory is the size of the output plus a few blocks per thread; the inputs are
    memory-mapped.

    Raises:
        MergeFilesError: A file cannot be read, or the output is one of the inputs.
        MergeError: The experts do not fit together or cannot be aligned, or the result is not
            finite.
        OSError: The output cannot be written.
    """
    _check_output(files)
    base, *opened = _open(files)
    experts = _aligned(base, opened, seed=options.seed) if files.align else opened
    torch.set_num_threads(1)  # the merge has its own threads, each working on one tensor
    if files.task is not None:
        merged = merge_tasks(base, experts, tasks=[files.task], options=options)
    else:
        _check_one_model(options)
        # Tensors on the CPU are kept until all are written; tensors on a GPU are copied at once.
        are_kept = options.device.type == "cpu"
        merged = merge_groups(
            base,
            experts,
            groups=[range(len(experts))],
            options=replace(options, may_defer=are_kept),
        )
    num_entries = sum(tensor.numel() for tensor in base.values())
    num_merged = 0
    tensors = {}
    for name, (tensor,) in merged:
        tensors[name] = tensor.cpu()
        num_merged += tensor.numel()
        progress(num_merged / num_entries)
    with replacing(files.output) as temporary:
        save_file(tensors, temporary, metadata=METADATA)


def _check_one_model(options: MergeOptions) -> None:
    if options.method.combine_for_task is not None:
        method = method_of(options.params)
        raise MergeError(f"{method} builds one model per task: choose an expert with --task")


def _aligned(base: State, experts: Sequence[State], *, seed: int) -> Sequence[State]:
    # Imported here because scipy takes a fifth of the command's start-up time.
    from merge.alignment.aligned import align  # noqa: PLC0415

    return [align(base, expert, seed=seed) for expert in experts]


def _open(files: MergeFiles) -> list[TensorFile]:
    """Memory-maps the base and the experts.

    Raises:
        MergeFilesError: Some files cannot be read or have no tensors; the message names all.
    """
    opened, problems = [], []
    for path, prefix in ((files.base, ""), *((path, files.prefix) for path in files.experts)):
        try:
            opened.append(TensorFile(path, prefix=prefix))
        except (OSError, SafetensorError) as error:
            problems.append(f"{path}: cannot be read as safetensors: {error}")
            continue
        if not opened[-1]:
            missing = f"no tensor whose name begins with {prefix!r}" if prefix else "no tensors"
            problems.append(f"{path}: holds {missing}")
    if problems:
        raise MergeFilesError("\n".join(problems))
    return opened


def _check_output(files: MergeFiles) -> None:
    """Raises if the output is one of the inputs."""
    for path in (files.base, *files.experts):
        if path.exists() and files.output.exists() and path.samefile(files.output):
            raise MergeFilesError(f"{files.output}: is one of the inputs; choose another output")
