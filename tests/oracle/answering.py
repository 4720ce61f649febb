"""What the peers' sides have in common: requests in, merged files and answers out.

A request is a JSON object: `base` and `experts` (paths), `method` and `parameters` (the peer's own
names), `out` (path); for random methods `kept` and for those that measure `statistics` (a path an
expert each); `is_double` for float64, where a peer's own rounding in float32 would hide more. The
answers are an object: `errors`, one for every request, null for a file written; `cpu_s`, the
process's CPU time after its imports.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

Request = dict[str, Any]


def answer_all(
    merge: Callable[[Request], dict[str, Tensor]],
    requests_file: str,
    answers_file: str,
    *,
    prepare: Callable[[Request], None] | None = None,
) -> None:
    """Answers every request of a file; an error of the peer is an answer.

    Args:
        merge: Returns the merged state dict.
        requests_file: Where the requests are.
        answers_file: Where the answers go.
        prepare: Imports what a request needs, before time is counted.
    """
    requests = json.loads(Path(requests_file).read_text())
    for request in requests if prepare else ():
        prepare(request)
    started = time.process_time()
    errors = [_answer(merge, request) for request in requests]
    cpu_s = time.process_time() - started
    Path(answers_file).write_text(json.dumps({"errors": errors, "cpu_s": cpu_s}))


def _answer(merge: Callable[[Request], dict[str, Tensor]], request: Request) -> str | None:
    try:
        merged = merge(request)
    except Exception as error:  # noqa: BLE001 whatever a peer raises is what the check is about
        return f"{type(error).__name__}: {error}"
    save_file({name: _alone(tensor) for name, tensor in merged.items()}, request["out"])
    return None


def _alone(tensor: Tensor) -> Tensor:
    """Returns the tensor, copied only where it shares memory, which the file format refuses."""
    tensor = tensor.detach().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
