"""FusionBench's side of the cross-check and of the benchmark; runs in the oracle's environment.

python peer_fusion_bench.py requests.json answers.json
"""

import contextlib
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from unittest.mock import patch

import torch
import typing_extensions
from answering import Request, answer_all
from safetensors.torch import load_file
from torch import Tensor, nn

if not hasattr(typing, "override"):
    # FusionBench declares Python 3.10 and imports from typing what typing has from 3.12 on.
    typing.override = typing_extensions.override

from fusion_bench import BaseModelPool
from fusion_bench.method.dare import DareTaskArithmetic, DareTiesMerging
from fusion_bench.method.emr_merging.utils import emr_merge
from fusion_bench.method.isotropic_merging import ISO_C_Merge, ISO_CTS_Merge
from fusion_bench.method.magmax import MagMaxAlgorithm
from fusion_bench.method.model_stock import ModelStock
from fusion_bench.method.simple_average import SimpleAverageAlgorithm
from fusion_bench.method.slerp import SlerpMergeAlgorithm
from fusion_bench.method.task_arithmetic import TaskArithmeticAlgorithm
from fusion_bench.method.task_singular_vector import TaskSingularVectorMerging
from fusion_bench.method.ties_merging import TiesMergingAlgorithm
from fusion_bench.method.weighted_average import WeightedAverageAlgorithm
from fusion_bench.method.wudi import WUDIMerging

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
ALGORITHMS = {
    "simple_average": SimpleAverageAlgorithm,
    "weighted_average": WeightedAverageAlgorithm,
    "task_arithmetic": TaskArithmeticAlgorithm,
    "ties": TiesMergingAlgorithm,
    "dare_task_arithmetic": DareTaskArithmetic,
    "dare_ties": DareTiesMerging,
    "model_stock": ModelStock,
    "magmax": MagMaxAlgorithm,
    "slerp": SlerpMergeAlgorithm,
    "tsv_m": TaskSingularVectorMerging,
    "iso_c": ISO_C_Merge,
    "iso_cts": ISO_CTS_Merge,
    "wudi": WUDIMerging,
}
WITHOUT_BASE = ("slerp",)
"""Slerp wants a pool of exactly two models, none of them the pretrained one."""


class FilePool(BaseModelPool):
    """A pool that reads a model from its safetensors file whenever an algorithm asks for it."""

    def load_model(self, model_name_or_config: str) -> nn.Module:
        """Returns the model, read anew: some algorithms write into what they are given."""
        return as_module(load_file(self._models[model_name_or_config]))


def as_module(state: Mapping[str, Tensor]) -> nn.Module:
    """Returns a module that does nothing but hold a state dict, as the algorithms take modules."""
    root = nn.Module()
    for name, tensor in state.items():
        *path, last = name.split(".")
        owner = root
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner._modules[part]
        if last in BUFFERS:
            owner.register_buffer(last, tensor)
        else:
            owner.register_parameter(last, nn.Parameter(tensor))
    return root


def merge(request: Request) -> dict[str, Tensor]:
    """Merges as the request says and returns the merged state dict."""
    pool = pool_of(request)
    with fed(request.get("uniforms"), base=request["base"]):
        if request["method"] == "emr":
            return emr(pool, **request["parameters"])
        algorithm = ALGORITHMS[request["method"]](**request["parameters"])
        return algorithm.run(pool).state_dict()


def pool_of(request: Request) -> FilePool:
    """Returns the pool of the request's files."""
    models = {f"expert_{index}": path for index, path in enumerate(request["experts"])}
    if request["method"] in WITHOUT_BASE:
        return FilePool(models)
    return FilePool({"_pretrained_": request["base"], **models})


def emr(pool: FilePool, *, task: int) -> dict[str, Tensor]:
    """Returns the weights that EMR's model has for one task.

    They come from FusionBench's own function: its wrapper computes them inside `forward`.
    """
    base, task_vectors = pool.load_pretrained_model_and_task_vectors()
    with torch.no_grad():
        unified, masks, scales = emr_merge(task_vectors)
        return {
            name: tensor + scales[task] * masks[name][task] * unified[name]
            for name, tensor in base.state_dict().items()
        }


@contextlib.contextmanager
def fed(paths: Sequence[str] | None, *, base: str) -> Iterator[None]:
    """Lets the draws of DARE come from files of uniform numbers, one file an expert.

    FusionBench draws for every parameter of the first expert, then of the second, and keeps an
    entry where its number is above the sparsity; ours is kept where it is below the density.
    """
    if paths is None:
        yield
        return
    names = [name for name, _ in as_module(load_file(base)).named_parameters()]
    draws = (uniform[name] for uniform in map(load_file, paths) for name in names)
    with patch.object(torch, "rand_like", lambda _: 1 - next(draws)):
        yield


if __name__ == "__main__":
    answer_all(merge, *sys.argv[1:])
