"""Runs FusionBench for the cross-check and the benchmark, in the oracle's environment.

python peer_fusion_bench.py requests.json answers.json
"""

import contextlib
import importlib
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from unittest.mock import patch

import torch
import typing_extensions
from peer_answers import Request, answer_all
from safetensors.torch import load_file
from torch import Tensor, nn

if not hasattr(typing, "override"):
    # FusionBench declares Python 3.10 but imports `override`, which typing has from 3.12 on.
    typing.override = typing_extensions.override

from fusion_bench import BaseModelPool

State = dict[str, Tensor]

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
ALGORITHMS = {
    "simple_average": ("simple_average", "SimpleAverageAlgorithm"),
    "weighted_average": ("weighted_average", "WeightedAverageAlgorithm"),
    "task_arithmetic": ("task_arithmetic", "TaskArithmeticAlgorithm"),
    "ties": ("ties_merging", "TiesMergingAlgorithm"),
    "dare_task_arithmetic": ("dare", "DareTaskArithmetic"),
    "dare_ties": ("dare", "DareTiesMerging"),
    "model_stock": ("model_stock", "ModelStock"),
    "magmax": ("magmax", "MagMaxAlgorithm"),
    "slerp": ("slerp", "SlerpMergeAlgorithm"),
    "tsv_m": ("task_singular_vector", "TaskSingularVectorMerging"),
    "iso_c": ("isotropic_merging", "ISO_C_Merge"),
    "iso_cts": ("isotropic_merging", "ISO_CTS_Merge"),
    "wudi": ("wudi", "WUDIMerging"),
}
"""Modules of `fusion_bench.method`. Only requested ones are loaded, as the benchmark needs it."""
WITHOUT_BASE = ("slerp",)
"""Methods whose pool has no pretrained model: Slerp needs exactly two models."""


class FilePool(BaseModelPool):
    """A pool that reads a model from its safetensors file on every request."""

    def load_model(self, model_name_or_config: str) -> nn.Module:
        """Returns a newly read model, since some algorithms write into their models."""
        return as_module(load_file(self._models[model_name_or_config])).to(
            torch.get_default_dtype()
        )


def as_module(state: Mapping[str, Tensor]) -> nn.Module:
    """Returns a module that only holds a state dict, since the algorithms take modules."""
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


def merge(request: Request) -> State:
    """Returns the merged state dict of a request."""
    pool, parameters = pool_of(request), request["parameters"]
    if request["method"] in FUNCTIONS:
        statistics = [load_file(path) for path in request.get("statistics", ())]
        with torch.no_grad():
            return FUNCTIONS[request["method"]](pool, statistics, **parameters)
    torch.set_default_dtype(torch.float64 if request.get("is_double") else torch.float32)
    with dropping(request.get("kept"), base=request["base"]):
        return algorithm(request["method"])(**parameters).run(pool).state_dict()


def prepare(request: Request) -> None:
    """Imports the modules for a request."""
    if request["method"] in ALGORITHMS:
        algorithm(request["method"])


def algorithm(method: str) -> type:
    """Returns the class of a method."""
    module, name = ALGORITHMS[method]
    return getattr(importlib.import_module(f"fusion_bench.method.{module}"), name)


def pool_of(request: Request) -> FilePool:
    """Returns the pool of the request's files."""
    models = {f"expert_{index}": path for index, path in enumerate(request["experts"])}
    if request["method"] in WITHOUT_BASE:
        return FilePool(models)
    return FilePool({"_pretrained_": request["base"], **models})


def emr(pool: FilePool, _: Sequence[State], *, task: int) -> State:
    """Returns the weights of EMR's model for one task.

    FusionBench's wrapper computes them inside `forward`, from the results of this function.
    """
    functions = importlib.import_module("fusion_bench.method.emr_merging.utils")
    base, task_vectors = pool.load_pretrained_model_and_task_vectors()
    unified, masks, scales = functions.emr_merge(task_vectors)
    return {
        name: tensor + scales[task] * masks[name][task] * unified[name]
        for name, tensor in base.state_dict().items()
    }


def fisher(pool: FilePool, statistics: Sequence[State], *, normalize: bool) -> State:
    """Returns the mean weighted by given Fisher information; the algorithm measures it on CLIP."""
    functions = importlib.import_module("fusion_bench.method.fisher_merging.fisher_merging")
    return functions.merging_with_fisher_weights(
        by_name(pool),
        list(statistics),
        torch.ones(len(statistics)),
        normalize_fisher_weight=normalize,
    )


def regmean(pool: FilePool, statistics: Sequence[State], *, reduce: float) -> State:
    """Returns RegMean's solution for given Gram matrices; the algorithm measures them on CLIP."""
    grams = [
        {name.removesuffix(".weight"): gram for name, gram in each.items()} for each in statistics
    ]
    functions = importlib.import_module("fusion_bench.method.regmean.regmean")
    return functions.merging_with_regmean_weights(
        by_name(pool), grams, reduce_non_diagonal_ratio=reduce
    )


def by_name(pool: FilePool) -> dict[str, list[Tensor]]:
    """Returns the tensors of all experts by name."""
    states = [pool.load_model(name).state_dict() for name in pool.model_names]
    return {name: [state[name] for state in states] for name in states[0]}


FUNCTIONS = {"emr": emr, "fisher": fisher, "regmean": regmean}
"""Methods that FusionBench has as functions, but not as algorithms for any model."""


@contextlib.contextmanager
def dropping(paths: Sequence[str] | None, *, base: str) -> Iterator[None]:
    """Makes DARE keep the entries that files list, one file per expert, instead of drawing.

    FusionBench draws for every parameter of the first expert, then of the second, and keeps an
    entry if its number is above the sparsity.
    """
    if paths is None:
        yield
        return
    names = [name for name, _ in as_module(load_file(base)).named_parameters()]
    masks = (kept[name] for kept in map(load_file, paths) for name in names)
    with patch.object(torch, "rand_like", lambda _: next(masks).float()):
        yield


if __name__ == "__main__":
    answer_all(merge, *sys.argv[1:], prepare=prepare)
