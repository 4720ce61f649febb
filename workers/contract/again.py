"""Merges with a user's method once more, in a process in which Python's hashes are others.

`python -m workers.contract.again` reads a `MethodQuestion` from standard input, and prints the
digest of a merge.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from eval.digests import sha256_of_bytes
from merge.own import OwnMethod
from workers.contract.checks import Tried
from workers.contract.report import MethodQuestion
from workers.contract.states import random_experts
from workers.forked import module_command
from workers.own_methods.loading import load_file, load_package
from workers.own_methods.sources import OwnMethodError
from workers.specs.own_method import file_source

_HASHED = re.compile(rb"\b(hash|set|frozenset)\b")
"""Words with which code may depend on hashes."""
_VARIABLE = "PYTHONHASHSEED"
_LIMIT_S = 120
_OUTPUT, _ERRORS = 1, 2
_SEED = 1


def load(question: MethodQuestion) -> OwnMethod:
    """Runs the code of a method and returns the method.

    Raises:
        OwnMethodError: There is no such method, or the file has changed.
        Exception: The code itself raises it.
    """
    if question.path is None:
        return load_package(question.name, source=question.source)
    content = Path(question.path).read_bytes()
    if file_source(sha256_of_bytes(content)) != question.source:
        raise OwnMethodError("the file has changed since this command began; run it again")
    return load_file(content, name=question.name, shown=question.path)


def depends_on_hashes(tried: Tried, *, question: MethodQuestion) -> bool | None:
    """Returns whether a merge differs in a process where texts have other hashes.

    A new process takes seconds, so files without a word that hashes or makes sets are not tried:
    None stands for them.

    Raises:
        subprocess.SubprocessError: The other process failed, or took too long.
    """
    path = question.path
    if path is not None and not _HASHED.search(Path(path).read_bytes()):
        return None
    others = "1" if os.environ.get(_VARIABLE) != "1" else "2"
    ended = subprocess.run(  # noqa: S603 our own
        module_command("workers.contract.again"),
        input=question.key.encode(),
        capture_output=True,
        timeout=_LIMIT_S,
        check=True,
        env={**os.environ, _VARIABLE: others},
    )
    return ended.stdout.decode().strip() != _digest(tried)


def _digest(tried: Tried) -> str:
    digest = hashlib.sha256()
    for tensors in tried.merged(random_experts(tried.num_experts), seed=_SEED).values():
        for tensor in tensors:
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def main() -> int:
    """Prints the digest; returns the exit code."""
    question = MethodQuestion(**json.loads(sys.stdin.read()))
    answer = os.dup(_OUTPUT)
    os.dup2(_ERRORS, _OUTPUT)  # the method may print
    digest = _digest(Tried.of(load(question), name=question.name))
    os.write(answer, digest.encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
