from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from merge.catalogue import PARAMS, num_experts_of
from merge.errors import MergeError, MismatchError, NonFiniteInputError, NonFiniteMergeError
from merge.merge import MergeOptions, merge
from merge.parameters.linear import (
    AverageParams,
    ModelStockParams,
    TaskArithmeticParams,
    WeightedAverageParams,
)
from merge.parameters.per_task import EmrParams, TallMaskParams, TwinParams
from merge.parameters.sparse import (
    BreadcrumbsParams,
    ConsensusTaParams,
    DareParams,
    DareTiesParams,
    DellaParams,
    MagMaxParams,
    PcbParams,
    TiesParams,
)
from merge.parameters.spectral import IsoCParams, IsoCtsParams, TsvMParams, WudiParams
from merge.table import METHODS

if TYPE_CHECKING:
    from merge.parameters.method_params import MethodParams

# Methods that read data need a model; test_reading_data.py tests them.
DEFAULTS = [
    pytest.param(params_class(), id=name)
    for name, params_class in PARAMS.items()
    if METHODS[name].learn is None
]
FOR_ANY_NUMBER = [each for each in DEFAULTS if num_experts_of(each.values[0]) is None]  # type: ignore[arg-type]
NEGATED = [
    TaskArithmeticParams(scaling=-1),
    MagMaxParams(scaling=-1),
    TiesParams(density=1, scaling=-1),
    DareParams(density=1, scaling=-1),
    DareTiesParams(density=1, trim_density=1, scaling=-1),
    BreadcrumbsParams(density=1, scaling=-1),
    DellaParams(density=1, scaling=-1),
    ConsensusTaParams(min_tasks=1, scaling=-1),
    TsvMParams(scaling=-1),
]
UNSCALED = [
    TaskArithmeticParams(scaling=0),
    TiesParams(scaling=0),
    TiesParams(scaling=0, scope="tensor", consensus="mean"),
    DareParams(scaling=0),
    DareTiesParams(scaling=0),
    TsvMParams(scaling=0),
    IsoCParams(scaling=0),
    IsoCtsParams(scaling=0),
    TallMaskParams(scaling=0),
    TwinParams(scaling=0),
    BreadcrumbsParams(scaling=0),
    DellaParams(scaling=0),
    ConsensusTaParams(scaling=0),
    PcbParams(scaling=0),
    MagMaxParams(scaling=0),
]
WHOLE = [
    AverageParams(),
    WeightedAverageParams(),
    WeightedAverageParams(weights=(7,)),
    ModelStockParams(),
    TaskArithmeticParams(scaling=1),
    TiesParams(density=1, scaling=1),
    TiesParams(density=1, scaling=1, consensus="mean", scope="tensor"),
    DareParams(density=1, scaling=1),
    DareTiesParams(density=1, trim_density=1, scaling=1, consensus="mean"),
    TsvMParams(scaling=1),
    WudiParams(),
    EmrParams(),
    TallMaskParams(scaling=1),
    TwinParams(scaling=1),
    BreadcrumbsParams(density=1, scaling=1),
    DellaParams(density=1, scaling=1),
    DellaParams(density=1, scaling=1, elect=False),
    ConsensusTaParams(min_tasks=1, scaling=1),
    MagMaxParams(scaling=1),
]


def states(num_states: int, *, dtype: torch.dtype = torch.float32) -> list[dict[str, Tensor]]:
    """Makes states with matrices, a kernel, a vector, a scalar and a batch normalization."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"fc.weight": (7, 5), "conv.weight": (4, 3, 3, 3), "fc.bias": (7,), "scale": ()}
    return [
        {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
        | {
            "bn.running_mean": torch.randn(4, generator=generator).to(dtype),
            "bn.running_var": torch.rand(4, generator=generator).to(dtype) + 0.5,
            "bn.num_batches_tracked": torch.tensor(index),
        }
        for index in range(num_states)
    ]


def states_for(
    params: MethodParams, *, dtype: torch.dtype = torch.float32
) -> list[dict[str, Tensor]]:
    """Makes a base and as many experts as the method merges, or three."""
    return states(1 + (num_experts_of(params) or 3), dtype=dtype)


@pytest.mark.parametrize("params", DEFAULTS)
def test_the_merge_has_the_names_shapes_and_dtypes_of_the_base(params: MethodParams) -> None:
    """The merged state has the base's architecture and order."""
    base, *experts = states_for(params)
    merged = dict(merge(base, experts, options=MergeOptions(params=params)))
    assert list(merged) == list(base)
    assert [each.shape for each in merged.values()] == [each.shape for each in base.values()]
    assert [each.dtype for each in merged.values()] == [each.dtype for each in base.values()]


@pytest.mark.parametrize("params", UNSCALED, ids=repr)
def test_scaling_zero_gives_the_base(params: MethodParams) -> None:
    """Weights and, by policy, statistics are the base's, bit for bit."""
    base, *experts = states(4)
    for name, tensor in merge(
        base, experts, options=MergeOptions(params=params, batch_norm="base")
    ):
        if tensor.is_floating_point():
            assert torch.equal(tensor, base[name]), name


@pytest.mark.parametrize("params", NEGATED, ids=repr)
def test_scaling_minus_one_moves_away_from_one_expert(params: MethodParams) -> None:
    """Negation: the base minus the task vector."""
    base, expert = states(2)
    for name, tensor in merge(base, [expert], options=MergeOptions(params=params)):
        if name in {"fc.weight", "conv.weight", "fc.bias", "scale"}:
            expected = base[name] - (expert[name] - base[name])
            torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("params", WHOLE, ids=repr)
def test_one_expert_with_nothing_dropped_gives_the_expert(params: MethodParams) -> None:
    """At scaling 1 and density 1 a single task vector leads from the base to its expert."""
    base, expert = states(2)
    for name, tensor in merge(base, [expert], options=MergeOptions(params=params)):
        torch.testing.assert_close(tensor, expert[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("params", DEFAULTS)
def test_merging_again_gives_the_same_bits(params: MethodParams) -> None:
    """Two merges with the same inputs and seed are equal, whatever the global seed."""
    base, *experts = states_for(params)
    torch.manual_seed(1)
    first = dict(merge(base, experts, options=MergeOptions(params=params, seed=7)))
    torch.manual_seed(2)
    second = dict(merge(base, experts, options=MergeOptions(params=params, seed=7)))
    assert all(torch.equal(first[name], second[name]) for name in base)


@pytest.mark.parametrize("params", DEFAULTS)
def test_merging_changes_no_input(params: MethodParams) -> None:
    """Base and experts may be memory-mapped files, so they must not change."""
    inputs, copies = states_for(params), states_for(params)
    for _, tensor in merge(
        inputs[0], inputs[1:], options=MergeOptions(params=params, batch_norm="base")
    ):
        tensor.zero_()
    for given, copy in zip(inputs, copies, strict=True):
        assert all(torch.equal(given[name], copy[name]) for name in copy)


@pytest.mark.parametrize(
    "params",
    [
        AverageParams(),
        TaskArithmeticParams(),
        ModelStockParams(),
        TiesParams(),
        TiesParams(consensus="mean"),
        BreadcrumbsParams(),
        ConsensusTaParams(),
        PcbParams(),
        MagMaxParams(),
    ],
)
def test_another_order_of_experts_changes_no_more_than_rounding(params: MethodParams) -> None:
    """Sums are taken in the given order, which shows in the last bits only."""
    base, *experts = states(6)
    there = dict(merge(base, experts, options=MergeOptions(params=params)))
    back = dict(merge(base, experts[::-1], options=MergeOptions(params=params)))
    for name in base:
        torch.testing.assert_close(there[name], back[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("params", DEFAULTS)
def test_half_precision_is_merged_in_single_and_rounded_once(
    params: MethodParams, dtype: torch.dtype
) -> None:
    """The result is the merge of the same numbers in float32, rounded to the base's dtype."""
    base, *experts = states_for(params, dtype=dtype)
    halves = dict(merge(base, experts, options=MergeOptions(params=params)))
    single = [
        {name: each.float() if each.is_floating_point() else each for name, each in state.items()}
        for state in (base, *experts)
    ]
    for name, tensor in merge(single[0], single[1:], options=MergeOptions(params=params)):
        assert torch.equal(halves[name], tensor.to(base[name].dtype)), name


def test_averaging_half_precision_does_not_overflow_on_the_way() -> None:
    """60,000 + 60,000 is beyond float16, but their mean is not."""
    large = {"w": torch.tensor([60_000.0], dtype=torch.float16)}
    merged = dict(merge(large, [large, large], options=MergeOptions(params=AverageParams())))
    assert torch.equal(merged["w"], large["w"])


def test_a_result_beyond_the_dtype_is_an_error() -> None:
    """0 + 10 * 60,000 is inf in float16; the message names tensor and method."""
    base = {"w": torch.zeros(1, dtype=torch.float16)}
    expert = {"w": torch.tensor([60_000.0], dtype=torch.float16)}
    with pytest.raises(NonFiniteMergeError, match="w merged by task_arithmetic"):
        dict(merge(base, [expert], options=MergeOptions(params=TaskArithmeticParams(scaling=10))))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("params", DEFAULTS)
def test_an_expert_that_is_not_finite_is_named(params: MethodParams, value: float) -> None:
    """Every method refuses a diverged expert with its position and the tensor."""
    base, *experts = states_for(params)
    experts[-1]["fc.weight"][3, 1] = value
    with pytest.raises(
        NonFiniteInputError, match=rf"fc\.weight of expert {len(experts)} holds NaN or inf"
    ):
        dict(merge(base, experts, options=MergeOptions(params=params)))


def test_a_base_that_is_not_finite_is_named() -> None:
    """The base is checked like the experts."""
    base, expert = states(2)
    base["fc.bias"][0] = float("nan")
    with pytest.raises(NonFiniteInputError, match=r"fc\.bias of the base"):
        dict(merge(base, [expert], options=MergeOptions(params=TaskArithmeticParams())))


def test_differing_architectures_are_refused_by_the_call_itself() -> None:
    """The error comes before the first tensor is requested."""
    base, expert = states(2)
    del expert["fc.bias"]
    with pytest.raises(MismatchError, match=r"expert 1: fc\.bias is missing"):
        merge(base, [expert], options=MergeOptions(params=AverageParams()))


@pytest.mark.parametrize("params", DEFAULTS)
def test_mixed_floats_merge_in_one_wanted_type(params: MethodParams) -> None:
    """The result has the wanted type, and the bits of a merge of float32 models."""
    models = states_for(params)
    dtypes = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
    mixed = [
        {name: each.to(dtype) if each.is_floating_point() else each for name, each in state.items()}
        for state, dtype in zip(models, dtypes, strict=False)
    ]
    single = [
        {name: each.float() if each.is_floating_point() else each for name, each in state.items()}
        for state in mixed
    ]
    options = MergeOptions(params=params, dtype=torch.float32)
    expected = dict(merge(single[0], single[1:], options=MergeOptions(params=params)))
    for name, tensor in merge(mixed[0], mixed[1:], options=options):
        assert torch.equal(tensor, expected[name]), name
        assert tensor.dtype == expected[name].dtype, name


def test_a_number_beyond_float32_is_named_as_such() -> None:
    """A float64 of 1e300 is finite, but computations are in float32."""
    base, expert = ({"w": torch.tensor([each], dtype=torch.float64)} for each in (1.0, 1e300))
    with pytest.raises(NonFiniteInputError, match="w of expert 1 holds a number beyond float32"):
        dict(merge(base, [expert], options=MergeOptions(params=AverageParams())))


def test_no_expert_is_refused_by_the_call_itself() -> None:
    """A merge of no expert is undefined."""
    with pytest.raises(MergeError, match="at least one expert"):
        merge(states(1)[0], [], options=MergeOptions(params=AverageParams()))


@pytest.mark.parametrize("params", DEFAULTS)
@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_a_tensor_without_entries_stays_one(params: MethodParams, shape: tuple[int, ...]) -> None:
    """Empty tensors have neither extremes nor a threshold, and pass through every method."""
    empty = {"empty": torch.zeros(shape)}
    for state in (empty, {"w": torch.ones(2), **empty}):
        experts = [state] * (num_experts_of(params) or 1)
        merged = dict(
            merge(state, experts, options=MergeOptions(params=params, batch_norm="pooled"))
        )
        assert merged["empty"].shape == shape


def test_a_state_of_buffers_alone_merges_by_ties() -> None:
    """The pass over the weights has nothing to measure and raises no error."""
    counters = [{"num_batches_tracked": torch.tensor(number)} for number in (0, 3, 2)]
    merged = dict(merge(counters[0], counters[1:], options=MergeOptions(params=TiesParams())))
    assert int(merged["num_batches_tracked"]) == 3


class LazyState(Mapping[str, Tensor]):
    """A state that makes a tensor on each read, like a memory-mapped file."""

    def __init__(self, shapes: dict[str, int], *, value: float) -> None:
        self.shapes, self.value = shapes, value

    def __getitem__(self, name: str) -> Tensor:
        return torch.full((self.shapes[name],), self.value, dtype=torch.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def __contains__(self, name: object) -> bool:
        return name in self.shapes


class LiveEntries(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the entries of all live tensors, except small ones and a selection's counts."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live: Counter[tuple[int, int]] = Counter()
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204 torch leaves them open
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and 1000 < made.numel() != 1 << 16:
            # Views share memory, and in-place operations return tensors that are already counted.
            memory = (made.untyped_storage().data_ptr(), made.untyped_storage().nbytes() // 4)
            self.live[memory] += 1
            self.peak = max(self.peak, sum(entries for _, entries in self.live))
            weakref.finalize(made, self._release, memory)
        return made

    def _release(self, memory: tuple[int, int]) -> None:
        self.live[memory] -= 1
        if not self.live[memory]:
            del self.live[memory]


NUM_ENTRIES = 70_000
"""Entries of a tensor: more than a selection keeps of a small model."""


def peak_entries(params: MethodParams, *, num_experts: int, num_tensors: int) -> int:
    shapes = {f"w{index}": NUM_ENTRIES for index in range(num_tensors)}
    experts = [LazyState(shapes, value=index + 1) for index in range(num_experts)]
    live = LiveEntries()
    with live:
        for _ in merge(LazyState(shapes, value=0), experts, options=MergeOptions(params=params)):
            pass
    return live.peak


@pytest.mark.parametrize("params", FOR_ANY_NUMBER)
def test_peak_memory_depends_neither_on_experts_nor_on_tensors(params: MethodParams) -> None:
    """Three experts with three tensors and nine with twelve hold equally many entries at the peak.

    The bound is eleven tensors, which DELLA needs. Averaging needs five with three experts and with
    nine; it would need eleven with nine if it held them all.
    """
    small = peak_entries(params, num_experts=3, num_tensors=3)
    large = peak_entries(params, num_experts=9, num_tensors=12)
    assert small == large
    assert 0 < large <= 11 * NUM_ENTRIES
