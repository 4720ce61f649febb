"""Reads requests and writes answers, for the scripts that run in the peers' environment.

A request is a JSON object. `base` and `experts` are paths, `method` and `parameters` use names of
the peer, and `out` is the path of the result. Random methods also have `kept`, and methods that
measure have `statistics`: one path per expert. `is_double` asks for float64, if the peer's rounding
in float32 would hide a difference. The answers are one object: `errors` has an error for every
request, or null if the file was written; `cpu_s` is the process's CPU time after its imports.
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
    """Answers every request of a file; an error of the peer is an answer too.

    Args:
        merge: Returns the merged state dict of a request.
        requests_file: Path of the requests.
        answers_file: Path of the answers.
        prepare: Imports the modules for a request, before time is measured.
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
    except Exception as error:  # noqa: BLE001 the check is about any error of a peer
        return f"{type(error).__name__}: {error}"
    save_file({name: _unshared(tensor) for name, tensor in merged.items()}, request["out"])
    return None


def _unshared(tensor: Tensor) -> Tensor:
    """Returns the tensor, copied only if it shares memory, which safetensors refuses."""
    tensor = tensor.detach().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
