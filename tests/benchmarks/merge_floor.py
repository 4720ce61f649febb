"""Computes an average at the least possible cost: reads, adds and writes every byte once.

merge_speed.py runs it: python merge_floor.py requests.json answers.json
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


def main(requests: str, answers: str) -> None:
    """Averages the files in order without any check."""
    started = time.process_time()
    (request,) = json.loads(Path(requests).read_text())
    torch.set_num_threads(1)
    _average(request["experts"], request["out"])
    cpu_s = time.process_time() - started  # includes unmapping the files, as ours does
    Path(answers).write_text(json.dumps({"errors": [None], "cpu_s": cpu_s}))


def _average(experts: Sequence[str], out: str) -> None:
    files = [safe_open(path, framework="pt") for path in experts]
    names = files[0].keys()
    save_file({name: _mean(name, files) for name in names}, out)


def _mean(name: str, files: list[safe_open]) -> Tensor:
    total = files[0].get_tensor(name).clone()
    for file in files[1:]:
        total += file.get_tensor(name)
    total /= len(files)
    return total


if __name__ == "__main__":
    main(*sys.argv[1:])
