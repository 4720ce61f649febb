"""Properties of every method that reads data, on a model with all kinds of weights."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from merge.catalogue import method_of
from merge.errors import MergeError, NonFiniteInputError
from merge.merge import MergeOptions, merge, merge_groups
from merge.parameters.with_data import (
    AdaMergingParams,
    FisherParams,
    FrankWolfeParams,
    FrankWolfeSoftParams,
    GreedySoupParams,
    RegMeanParams,
)
from merge.table import METHODS

if TYPE_CHECKING:
    from merge.parameters.method_params import MethodParams
    from merge.probe import Probe

    MakeProbe = Callable[..., Any]

PARAMS = [
    AdaMergingParams(steps=3, lr=0.05, batch_size=4),
    AdaMergingParams(steps=3, lr=0.05, batch_size=4, level="model", trim_density=0.5),
    FisherParams(images=5),
    RegMeanParams(images=5),
    FrankWolfeParams(iterations=3, images=6),
    FrankWolfeParams(iterations=3, images=6, granularity="tensor", start="average"),
    FrankWolfeSoftParams(iterations=2, images=6, steps=3, lr=0.05, batch_size=4),
    FrankWolfeSoftParams(
        iterations=2,
        images=6,
        top_k=2,
        granularity="tensor",
        steps=3,
        lr=0.05,
        batch_size=4,
        loss="entropy",
        in_hull=True,
    ),
    GreedySoupParams(images=5),
]
SHAPES = {"fc.weight": (7, 5), "conv.weight": (4, 3, 3, 3), "fc.bias": (7,), "scale": ()}


def model(state: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """A model that uses every weight: (images, 5) to (images, 7)."""
    logits = (images @ state["fc.weight"].T + state["fc.bias"]) * state["scale"]
    return logits + torch.nn.functional.pad(state["conv.weight"].sum(dim=(1, 2, 3)), (0, 3))


def states(num_states: int, *, dtype: torch.dtype = torch.float32) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()}
        | {
            "bn.running_mean": torch.randn(4, generator=generator).to(dtype),
            "bn.running_var": torch.rand(4, generator=generator).to(dtype) + 0.5,
            "bn.num_batches_tracked": torch.tensor(index),
            "empty": torch.zeros(3, 0, dtype=dtype),
        }
        for index in range(num_states)
    ]


@pytest.fixture
def probe(toy_probe: MakeProbe) -> Any:  # noqa: ANN401 the class is a fixture's
    """Returns a probe of the model with three tasks."""
    return toy_probe(model, num_tasks=3, width=5, num_classes=7, matrix="fc.weight")


def test_all_methods_that_read_data_are_here() -> None:
    """A method that is added to the table is tested here."""
    reading = {name for name, method in METHODS.items() if method.learn is not None}
    assert reading == {method_of(params) for params in PARAMS}


@pytest.mark.parametrize("params", PARAMS, ids=repr)
def test_the_merge_has_the_names_shapes_and_dtypes_of_the_base(
    params: MethodParams,
    probe: Any,  # noqa: ANN401
) -> None:
    """The merged state has the base's architecture and order."""
    base, *experts = states(4)
    merged = dict(merge(base, experts, options=MergeOptions(params=params, probe=probe)))
    assert list(merged) == list(base)
    assert [each.shape for each in merged.values()] == [each.shape for each in base.values()]
    assert [each.dtype for each in merged.values()] == [each.dtype for each in base.values()]


@pytest.mark.parametrize("params", PARAMS, ids=repr)
def test_merging_again_gives_the_same_bits_and_changes_no_input(
    params: MethodParams,
    probe: Any,  # noqa: ANN401
) -> None:
    """The second merge runs on threads, after the first result was overwritten."""
    inputs, copies = states(4), states(4)
    first = dict(merge(inputs[0], inputs[1:], options=MergeOptions(params=params, probe=probe)))
    kept = {name: tensor.clone() for name, tensor in first.items()}
    for tensor in first.values():
        tensor.zero_()
    torch.manual_seed(1)
    second = dict(
        merge(
            inputs[0], inputs[1:], options=MergeOptions(params=params, probe=probe, num_threads=2)
        )
    )
    assert all(torch.equal(kept[name], second[name]) for name in kept)
    for given, copy in zip(inputs, copies, strict=True):
        assert all(torch.equal(given[name], copy[name]) for name in copy)


@pytest.mark.parametrize("params", PARAMS, ids=repr)
def test_half_precision_is_merged_in_single_and_rounded_once(
    params: MethodParams,
    probe: Any,  # noqa: ANN401
) -> None:
    """The result is the merge of the same numbers in float32, rounded at the end."""
    base, *experts = states(4, dtype=torch.bfloat16)
    halves = dict(merge(base, experts, options=MergeOptions(params=params, probe=probe)))
    single = [
        {name: each.float() if each.is_floating_point() else each for name, each in state.items()}
        for state in (base, *experts)
    ]
    for name, tensor in merge(
        single[0], single[1:], options=MergeOptions(params=params, probe=probe)
    ):
        assert torch.equal(halves[name], tensor.to(base[name].dtype)), name


@pytest.mark.parametrize("params", PARAMS, ids=repr)
def test_an_expert_that_is_not_finite_is_named(
    params: MethodParams,
    probe: Any,  # noqa: ANN401
) -> None:
    """The error is raised before the model is used."""
    base, *experts = states(4)
    experts[2]["fc.weight"][3, 1] = float("nan")
    with pytest.raises(NonFiniteInputError, match=r"fc\.weight of expert 3"):
        dict(merge(base, experts, options=MergeOptions(params=params, probe=probe)))


@pytest.mark.parametrize("params", PARAMS, ids=repr)
def test_a_state_without_weights_is_merged_without_a_question(
    params: MethodParams, toy_probe: MakeProbe
) -> None:
    """Counters alone leave nothing to learn."""
    counters = [{"num_batches_tracked": torch.tensor(number)} for number in (0, 3, 2)]
    probe = toy_probe(model)
    merged = dict(
        merge(counters[0], counters[1:], options=MergeOptions(params=params, probe=probe))
    )
    assert int(merged["num_batches_tracked"]) == 3


@pytest.mark.parametrize("params", PARAMS, ids=repr)
def test_without_data_the_call_itself_is_refused(params: MethodParams) -> None:
    """A method that reads data needs a probe."""
    base, *experts = states(3)
    with pytest.raises(MergeError, match="images while it merges; only a study has them"):
        merge(base, experts, options=MergeOptions(params=params))


def test_two_groups_at_once_are_refused(probe: Any) -> None:  # noqa: ANN401
    """A probe has the tasks of one group."""
    base, *experts = states(4)
    options = MergeOptions(params=FisherParams(), probe=probe)
    with pytest.raises(MergeError, match="one group at a time"):
        merge_groups(base, experts, groups=[[0, 1], [2]], options=options)


class LazyState(Mapping[str, Tensor]):
    """A state that makes a tensor on each read, like a memory-mapped file."""

    def __init__(self, *, value: float) -> None:
        self.value = value

    def __getitem__(self, name: str) -> Tensor:
        return torch.full((2, 2500), self.value)

    def __iter__(self) -> Iterator[str]:
        return iter(("w0", "w1", "w2", "w3"))

    def __len__(self) -> int:
        return 4

    def __contains__(self, name: object) -> bool:
        return name in tuple(self)


class LiveEntries(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the entries of all live tensors, except small ones and a selection's counts."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live: Counter[tuple[int, int]] = Counter()
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204 torch leaves them open
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and 1000 < made.numel() != 1 << 16:
            memory = (made.untyped_storage().data_ptr(), made.untyped_storage().nbytes() // 4)
            self.live[memory] += 1
            self.peak = max(self.peak, sum(entries for _, entries in self.live))
            weakref.finalize(made, self._release, memory)
        return made

    def _release(self, memory: tuple[int, int]) -> None:
        self.live[memory] -= 1
        if not self.live[memory]:
            del self.live[memory]


def sums_of_weights(state: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """A model of two classes and many weights: (images, 1) to (images, 2)."""
    total = sum(weight.mean(dim=1) for weight in state.values())
    assert isinstance(total, Tensor)
    return images * total


@pytest.mark.parametrize("params", PARAMS, ids=repr)
def test_peak_memory_does_not_depend_on_the_number_of_experts(
    params: MethodParams, toy_probe: MakeProbe
) -> None:
    """Three and nine experts need the same number of models in memory.

    The bound is seven models of 20,000 entries; nine experts alone would be nine. Three models
    belong to the toy probe: the given weights, their gradient and its square.
    """
    peaks = [
        peak_entries(params, probe=toy_probe(sums_of_weights, num_tasks=each), num_experts=each)
        for each in (3, 9)
    ]
    assert peaks[0] == peaks[1]
    assert 0 < peaks[0] < 7 * 20_000


def peak_entries(params: MethodParams, *, probe: Probe, num_experts: int) -> int:
    """Merges experts that are made when they are read, and returns the most entries alive."""
    experts = [LazyState(value=index + 1.0) for index in range(num_experts)]
    live = LiveEntries()
    options = MergeOptions(params=params, probe=probe)
    with live:
        for _ in merge(LazyState(value=0.0), experts, options=options):
            pass
    return live.peak


@pytest.mark.parametrize(
    "params",
    [each for each in PARAMS if isinstance(each, FrankWolfeParams | FrankWolfeSoftParams)],
    ids=repr,
)
def test_peak_memory_of_frank_wolfe_does_not_depend_on_the_pool(
    params: MethodParams, toy_probe: MakeProbe
) -> None:
    """Four tasks are scored, and twenty experts need the memory of four."""
    peaks = [
        peak_entries(params, probe=toy_probe(sums_of_weights, num_tasks=4), num_experts=num_experts)
        for num_experts in (4, 20)
    ]
    assert 0 < peaks[1] <= 1.1 * peaks[0]
