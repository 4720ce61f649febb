"""Runs mergekit for the cross-check and the benchmark, in the oracle's environment.

python peer_mergekit.py requests.json answers.json
"""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from unittest.mock import patch

import torch
from mergekit.merge_methods.api import merge_state_dicts
from peer_answers import Request, answer_all
from safetensors.torch import load_file
from torch import Tensor

WITHOUT_BASE = ("linear",)
BETWEEN_EXPERTS = ("slerp",)
"""Methods that call the first of two experts the base."""


def merge(request: Request) -> dict[str, Tensor]:
    """Returns the merged state dict of a request."""
    models = {f"expert_{index}": load_file(path) for index, path in enumerate(request["experts"])}
    base = None
    if request["method"] in BETWEEN_EXPERTS:
        base = "expert_0"
    elif request["method"] not in WITHOUT_BASE:
        base = "base"
        models = {base: load_file(request["base"]), **models}
    names = list(next(iter(models.values())))
    with torch.no_grad(), dropping(request, names=names):
        return merge_state_dicts(
            models,
            request["method"],
            parameters=request["parameters"],
            base=base,
            dtype=torch.float64 if request.get("is_double") else None,
        )


@contextlib.contextmanager
def dropping(request: Request, *, names: Sequence[str]) -> Iterator[None]:
    """Makes DARE and DELLA keep the entries that files list, one file per expert.

    mergekit draws for every expert of the first tensor, then of the second. It cannot divide kept
    entries by their probability, so the mask does it if that is requested.
    """
    if "kept" not in request:
        yield
        return
    experts = [load_file(path) for path in request["kept"]]
    masks = (kept[name] for name in names for kept in experts)

    def bernoulli(probability: Tensor) -> Tensor:
        kept = next(masks).reshape(probability.shape).to(probability.dtype)
        return kept / probability if request["is_divided"] else kept

    with patch.object(torch, "bernoulli", bernoulli):
        yield


if __name__ == "__main__":
    answer_all(merge, *sys.argv[1:])
