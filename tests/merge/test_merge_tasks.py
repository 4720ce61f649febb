"""Properties of every method that keeps modules of each task."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from merge.catalogue import PARAMS
from merge.errors import MergeError, NonFiniteInputError
from merge.merge import MergeOptions, merge_groups, merge_tasks
from merge.parameters.linear import AverageParams
from merge.table import METHODS

PER_TASK = [
    pytest.param(MergeOptions(params=PARAMS[name](), seed=7), id=name)
    for name, method in METHODS.items()
    if method.combine_for_task is not None
]


def states(num_states: int) -> list[dict[str, Tensor]]:
    """Makes states with a matrix, a kernel, vectors, a scalar and a batch normalization."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"fc.weight": (9, 8), "conv.weight": (8, 3, 3, 3), "fc.bias": (9,), "scale": ()}
    return [
        {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        | {
            "bn.running_mean": torch.randn(4, generator=generator),
            "bn.running_var": torch.rand(4, generator=generator) + 0.5,
            "bn.num_batches_tracked": torch.tensor(index),
            "empty": torch.zeros(0, 2),
        }
        for index in range(num_states)
    ]


def models(
    base: dict[str, Tensor],
    experts: list[dict[str, Tensor]],
    *,
    tasks: list[int],
    options: MergeOptions,
) -> list[dict[str, Tensor]]:
    merged = list(merge_tasks(base, experts, tasks=tasks, options=options))
    return [{name: tensors[at] for name, tensors in merged} for at in range(len(tasks))]


@pytest.mark.parametrize("options", PER_TASK)
def test_every_model_has_the_names_shapes_and_dtypes_of_the_base(options: MergeOptions) -> None:
    """A task's model has the base's architecture."""
    base, *experts = states(4)
    for model in models(base, experts, tasks=[0, 1, 2], options=options):
        assert list(model) == list(base)
        assert [each.shape for each in model.values()] == [each.shape for each in base.values()]
        assert [each.dtype for each in model.values()] == [each.dtype for each in base.values()]


@pytest.mark.parametrize("options", PER_TASK)
def test_a_model_depends_neither_on_the_others_made_with_it_nor_on_threads(
    options: MergeOptions,
) -> None:
    """The number of models made at once affects memory, and no bit."""
    base, *experts = states(4)
    together = models(base, experts, tasks=[2, 0, 1], options=options)
    threaded = MergeOptions(params=options.params, seed=options.seed, num_threads=3)
    for model, task in zip(together, [2, 0, 1], strict=True):
        (alone,) = models(base, experts, tasks=[task], options=threaded)
        assert all(torch.equal(alone[name], model[name]) for name in base)


@pytest.mark.parametrize("options", PER_TASK)
def test_weights_differ_by_task_and_statistics_do_not(options: MergeOptions) -> None:
    """Running statistics and counters follow the policy, which is the same for all tasks."""
    base, *experts = states(4)
    first, second = models(base, experts, tasks=[0, 1], options=options)
    assert not torch.equal(first["fc.weight"], second["fc.weight"])
    for name in base:
        if name.startswith("bn."):
            assert torch.equal(first[name], second[name]), name
    ((_, (mean,)),) = [
        each
        for each in merge_groups(base, experts, groups=[[0, 1, 2]], options=options)
        if each[0] == "bn.running_mean"
    ]
    assert torch.equal(first["bn.running_mean"], mean)


@pytest.mark.parametrize("options", PER_TASK)
def test_one_experts_own_model_lacks_nothing_but_rank(options: MergeOptions) -> None:
    """Vectors are the expert's; a matrix is nearer to the expert's than the base's is."""
    base, expert = states(2)
    (model,) = models(base, [expert], tasks=[0], options=options)
    torch.testing.assert_close(model["fc.bias"], expert["fc.bias"])
    left = torch.dist(model["fc.weight"], expert["fc.weight"])
    assert left < torch.dist(base["fc.weight"], expert["fc.weight"])


@pytest.mark.parametrize("options", PER_TASK)
def test_making_models_changes_no_input(options: MergeOptions) -> None:
    """Base and experts may be memory-mapped files, so they must not change."""
    inputs, copies = states(4), states(4)
    for model in models(inputs[0], inputs[1:], tasks=[0, 2], options=options):
        for tensor in model.values():
            tensor.zero_()
    for given, copy in zip(inputs, copies, strict=True):
        assert all(torch.equal(given[name], copy[name]) for name in copy)


@pytest.mark.parametrize("options", PER_TASK)
def test_an_expert_that_is_not_finite_is_named(options: MergeOptions) -> None:
    """The error is raised even if the model is for another task."""
    base, *experts = states(4)
    experts[2]["fc.weight"][3, 1] = float("nan")
    with pytest.raises(NonFiniteInputError, match=r"fc\.weight of expert 3"):
        models(base, experts, tasks=[0], options=options)


def test_a_method_with_one_model_for_all_tasks_is_refused_by_the_call_itself() -> None:
    """Averaging has no modules of a task."""
    base, expert = states(2)
    with pytest.raises(MergeError, match="average makes one model for all tasks"):
        merge_tasks(base, [expert], tasks=[0], options=MergeOptions(params=AverageParams()))
