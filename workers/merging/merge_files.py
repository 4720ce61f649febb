"""Merges files outside any study: safetensors in, safetensors out."""

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
"""What readers of safetensors files expect; one entry, as several are written in random order."""

Progress = Callable[[float], None]
"""Is told how much of the model is merged, as a fraction."""


class MergeFilesError(MergeError):
    """Files cannot be merged; the message names every file that is wrong, and why."""


@dataclass(frozen=True, kw_only=True)
class MergeFiles:
    """The files of one merge."""

    base: Path
    experts: Sequence[Path]
    output: Path
    prefix: str = ""
    """Of the experts' tensors to merge, such as `backbone.`; it is taken off."""
    is_aligned: bool = False
    """Whether each expert's channels are first brought into the order of the base's."""
    task: int | None = None
    """Of a method with a model for each task, the expert whose task to make the model for."""


def merge_files(files: MergeFiles, *, options: MergeOptions, progress: Progress) -> None:
    """Merges experts tensor by tensor and writes the result whole or not at all.

    Peak memory is the output, and a few blocks a thread: the inputs are memory-mapped.

    Raises:
        MergeFilesError: A file cannot be read, or the output is one of the inputs.
        MergeError: The experts do not fit, cannot be aligned, or the result is not finite.
        OSError: The output cannot be written.
    """
    _check_output(files)
    base, *opened = _open(files)
    experts = _aligned(base, opened, seed=options.seed) if files.is_aligned else opened
    torch.set_num_threads(1)  # the merge has threads of its own, a tensor each
    if files.task is not None:
        merged = merge_tasks(base, experts, tasks=[files.task], options=options)
    else:
        _check_one_model(options)
        are_kept = options.device.type == "cpu"  # until all are written; others are copied
        merged = merge_groups(
            base,
            experts,
            groups=[range(len(experts))],
            options=replace(options, settles_late=are_kept),
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
        raise MergeError(f"{method} makes a model for each task: say of which expert with --task")


def _aligned(base: State, experts: Sequence[State], *, seed: int) -> Sequence[State]:
    # Loads scipy, a fifth of what the command takes to start.
    from merge.alignment.aligned import align  # noqa: PLC0415

    return [align(base, expert, seed=seed) for expert in experts]


def _open(files: MergeFiles) -> list[TensorFile]:
    """Maps the base and the experts; names every file that is wrong."""
    opened, problems = [], []
    for path, prefix in ((files.base, ""), *((path, files.prefix) for path in files.experts)):
        try:
            opened.append(TensorFile(path, prefix=prefix))
        except (OSError, SafetensorError) as error:
            problems.append(f"{path}: cannot be read as safetensors: {error}")
            continue
        if not opened[-1]:
            what = f"no tensor whose name begins with {prefix!r}" if prefix else "no tensors"
            problems.append(f"{path}: holds {what}")
    if problems:
        raise MergeFilesError("\n".join(problems))
    return opened


def _check_output(files: MergeFiles) -> None:
    """Refuses to write over what is being read."""
    for path in (files.base, *files.experts):
        if path.exists() and files.output.exists() and path.samefile(files.output):
            raise MergeFilesError(f"{files.output}: is one of the inputs")
