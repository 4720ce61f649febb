"""Ours, for merge_speed.py: from files to a file, CPU time counted after the imports.

python merge_ours.py requests.json answers.json
"""

import json
import sys
import time
from pathlib import Path

import torch

from merge.merge import merge
from merge.params import parse_params
from workers.tensor_files import TensorFile, write_tensors


def main(requests: str, answers: str) -> None:
    """Merges as the first request says."""
    started = time.process_time()
    (request,) = json.loads(Path(requests).read_text())
    torch.set_num_threads(1)
    tensors = merge(
        TensorFile(Path(request["base"])),
        [TensorFile(Path(path)) for path in request["experts"]],
        params=parse_params(request["method"], request["parameters"]),
    )
    write_tensors(Path(request["out"]), dict(tensors), about={})
    cpu_s = time.process_time() - started
    Path(answers).write_text(json.dumps({"errors": [None], "cpu_s": cpu_s}))


if __name__ == "__main__":
    main(*sys.argv[1:])
