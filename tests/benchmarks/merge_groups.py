"""Measures the cost of merging 15 groups in one pass over the experts, and in one pass per group.

The files of 20 experts of a ResNet-50 are removed from the page cache first, so that `read_bytes`
of /proc/self/io counts the bytes that the kernel reads from the disk.
"""

import argparse
import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from merge.catalogue import parse_params
from merge.merge import MergeOptions, merge_groups
from workers.models.tensor_files import TensorFile

NUM_EXPERTS, NUM_GROUPS, SIZE = 20, 15, 8


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of merging all groups."""

    read_bytes: int
    cpu_s: float


def write_models(folder: Path, *, model: str) -> list[Path]:
    """Writes a base with random weights of a timm model, and experts with added noise."""
    torch.manual_seed(0)
    base = timm.create_model(model, num_classes=0).state_dict()
    paths = [folder / f"{number}.safetensors" for number in range(NUM_EXPERTS + 1)]
    for number, path in enumerate(paths):
        state = {
            name: each + 1e-3 * number * torch.randn_like(each)
            if each.is_floating_point()
            else each + 100 * number
            for name, each in base.items()
        }
        save_file({name: each.abs() for name, each in state.items()}, path)
    return paths


def measure(paths: Sequence[Path], *, method: str, is_together: bool) -> Cost:
    """Merges all groups, in one pass or one by one, and discards the results."""
    draw = random.Random(0)
    groups = [sorted(draw.sample(range(NUM_EXPERTS), SIZE)) for _ in range(NUM_GROUPS)]
    base, experts = paths[0], paths[1:]
    if is_together:
        return _merge(base, experts, groups=groups, method=method)
    costs = [
        _merge(base, [experts[index] for index in group], groups=[range(SIZE)], method=method)
        for group in groups
    ]
    return Cost(
        read_bytes=sum(cost.read_bytes for cost in costs),
        cpu_s=sum(cost.cpu_s for cost in costs),
    )


def _merge(
    base: Path, experts: Sequence[Path], *, groups: Sequence[Sequence[int]], method: str
) -> Cost:
    forget([base, *experts])
    before_bytes, before_s = _read_bytes(), time.process_time()
    for _ in merge_groups(
        TensorFile(base),
        [TensorFile(path) for path in experts],
        groups=groups,
        options=MergeOptions(params=parse_params(method, {})),
    ):
        pass
    return Cost(read_bytes=_read_bytes() - before_bytes, cpu_s=time.process_time() - before_s)


def forget(paths: Sequence[Path]) -> None:
    """Removes files from the page cache."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def rows(paths: Sequence[Path], *, methods: Sequence[str]) -> Iterator[str]:
    """Yields the table's row of each method."""
    expert_bytes = sum(path.stat().st_size for path in paths[1:])
    for method in methods:
        together = measure(paths, method=method, is_together=True)
        apart = measure(paths, method=method, is_together=False)
        shares = [f"{cost.read_bytes / expert_bytes:.2f}" for cost in (together, apart)]
        seconds = [f"{cost.cpu_s:.1f} s" for cost in (together, apart)]
        yield f"| {' | '.join([method, *shares, *seconds])} |"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--methods", default="average,task_arithmetic,ties")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_models(Path(folder), model=arguments.model)
        print(f"{NUM_GROUPS} groups of {SIZE} of {NUM_EXPERTS} experts ({arguments.model})\n")  # noqa: T201 its output
        print("| method | read together / experts' bytes | apart | CPU together | apart |")  # noqa: T201 as above
        print("| --- | ---: | ---: | ---: | ---: |")  # noqa: T201 as above
        for row in rows(paths, methods=arguments.methods.split(",")):
            print(row, flush=True)  # noqa: T201 as above


def _read_bytes() -> int:
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["read_bytes"])


if __name__ == "__main__":
    main()
