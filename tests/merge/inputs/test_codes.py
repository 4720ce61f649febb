from __future__ import annotations

import pytest
import torch
from torch import Tensor

from merge.errors import Names, UnmergeableError
from merge.inputs.codes import check_mergeable
from merge.merge import MergeOptions, merge
from merge.parameters.linear import AverageParams

NAMES = Names(base="b.safetensors", experts=["x.safetensors"])


def packed(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.arange(torch.Size(shape).numel()).to(dtype).view(shape)


def refusal(state: dict[str, Tensor], expert: dict[str, Tensor] | None = None) -> str:
    with pytest.raises(UnmergeableError) as raised:
        check_mergeable(state, experts=[expert or state], names=NAMES)
    return str(raised.value)


@pytest.mark.parametrize(
    ("code", "beside", "dtype"),
    [
        ("w", "w_scale", torch.int8),
        ("w", "w.scale", torch.int8),
        ("w", "scale", torch.int8),
        ("fc.weight", "fc.weight_scale", torch.int8),
        ("fc.weight", "fc.scale_weight", torch.float8_e4m3fn),
        ("fc.weight", "fc.weight_scale_inv", torch.float8_e4m3fn),
        ("fc.weight", "fc.scales", torch.uint32),
        ("fc.weight", "fc.SCB", torch.int8),
        ("w", "w_scale", torch.int64),
        ("fc.W", "fc.weight_scale", torch.int8),
        ("w_int8", "w_scale", torch.int8),
        ("experts.down_proj_blocks", "experts.down_proj_scales", torch.uint8),
        ("fc.weight", "fc.zero_point", torch.uint8),
        ("fc.weight._data", "fc.weight._scale", torch.int8),
        ("fc.weight", "fc.weight_zero_point", torch.int16),
    ],
)
def test_codes_are_refused_with_their_scale(code: str, beside: str, dtype: torch.dtype) -> None:
    """The message names the file, the codes and the scale, also if all models are equal."""
    message = refusal({code: packed(2, 2, dtype=dtype), beside: torch.ones(2)})
    assert "b.safetensors" in message
    assert "x.safetensors" in message
    assert f"{code} is " in message
    assert f"codes of a quantised weight with {beside}" in message


@pytest.mark.parametrize(
    "names",
    [
        ("fc.qweight", "fc.qzeros"),
        ("fc.SCB",),
        ("fc.weight.absmax", "fc.weight.quant_map"),
        ("fc.weight.nested_absmax",),
        ("fc.weight.quant_state.bitsandbytes__nf4",),
        ("fc.weight_packed",),
        ("fc.W_q",),
        ("fc.q_weight", "fc.q_invperm"),
        ("qweight",),
    ],
)
def test_names_that_only_quantised_layers_have_are_refused(names: tuple[str, ...]) -> None:
    """GPTQ, AWQ, bitsandbytes, compressed-tensors and HQQ; each tensor is named."""
    message = refusal({"fc.bias": torch.ones(2)} | {name: packed(2, 2) for name in names})
    assert all(f"{name} is int32[2, 2]" in message for name in names)
    assert "fc.bias" not in message


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32])
def test_small_integers_that_differ_are_codes(dtype: torch.dtype) -> None:
    """Without a scale in the file, they are recognised by their differences."""
    base = {"w": packed(2, 2, dtype=dtype)}
    message = refusal(base, {"w": base["w"] + 1})
    (line,) = message.splitlines()[1:]
    kind = f"{str(dtype).removeprefix('torch.')}[2, 2]"
    assert line.startswith(f"  x.safetensors: w is {kind} and differs from that of b.safetensors")


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("bn.num_batches_tracked", torch.tensor(3), torch.tensor(9)),
        ("steps", torch.tensor([3], dtype=torch.int32), torch.tensor([9], dtype=torch.int32)),
        ("tokens_per_expert", torch.tensor([3, 1]), torch.tensor([3, 9])),
        ("attn.relative_position_index", packed(3, 3, dtype=torch.int64), None),
        ("attn.relative_position_index", packed(3, 3, dtype=torch.int32), None),
        ("attn.bias", torch.ones(1, 1, 4, 4, dtype=torch.uint8), None),
        ("attn.mask", torch.tensor([True, False]), torch.tensor([False, True])),
        *(
            ("counts", torch.tensor([3, 1]).to(dtype), torch.tensor([1, 9]).to(dtype))
            for dtype in (torch.uint16, torch.uint32, torch.uint64)
        ),
        ("empty", torch.zeros(0, dtype=torch.int8), None),
    ],
)
def test_counters_tables_and_masks_are_merged(
    name: str, first: Tensor, second: Tensor | None
) -> None:
    """Their maximum is taken, also beside learned scales; equal ones stay."""
    second = first if second is None else second
    scale = {"attn.logit_scale": torch.ones(4), "attn.scale": torch.ones(1)}
    if first.ndim > 1:
        del scale["attn.scale"]
    base, *experts = ({name: each, **scale} for each in (first, first, second))
    merged = dict(merge(base, experts, options=MergeOptions(params=AverageParams())))
    assert torch.equal(merged[name], torch.maximum(first, second))
    assert merged[name].dtype == first.dtype


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz),
        *(torch.float8_e8m0fnu, torch.float4_e2m1fn_x2, torch.complex64, torch.complex128),
    ],
)
@pytest.mark.parametrize("shape", [(), (2, 2)])
def test_types_that_no_method_merges_are_refused_by_name(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    """The call itself refuses them, and names tensor, type and remedy."""
    num_bytes = torch.empty(shape, dtype=dtype).nbytes
    tensor = torch.zeros(num_bytes, dtype=torch.uint8).view(dtype).view(shape)
    state = {"v": torch.ones(1), "w": tensor}
    message = rf"w is {str(dtype).removeprefix('torch.')}\[.*which no method merges"
    with pytest.raises(UnmergeableError, match=message) as raised:
        merge(state, [state], options=MergeOptions(params=AverageParams()))
    assert "convert base and experts to float16, bfloat16 or float32" in str(raised.value)
    assert "v is" not in str(raised.value)


@pytest.mark.parametrize(
    "name", ["attn.q_scale", "attn.q_weight", "W_q", "fc.weight_scale", "scales"]
)
def test_floats_with_the_names_of_codes_and_scales_are_weights(name: str) -> None:
    """Attention has scales and weights of its queries, and other layers learn scales too."""
    state = {name: torch.ones(2), name.replace("scale", "weight"): torch.ones(2)}
    merged = dict(merge(state, [state], options=MergeOptions(params=AverageParams())))
    assert merged[name].tolist() == [1.0, 1.0]
