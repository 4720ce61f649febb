from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import timm
import torch

from merge.merge import MergeOptions, coverage, merge
from merge.parameters.spectral import IsoCParams, IsoCtsParams, TsvMParams, WudiParams
from merge.spectral import is_matrix, leading_triples, nearest_isometry
from merge.weight import Weight

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from merge.parameters.method_params import MethodParams

SPECTRAL = [TsvMParams(), IsoCParams(), IsoCtsParams(), WudiParams(steps=20, lr=1e-3)]
every_method = pytest.mark.parametrize("params", SPECTRAL, ids=lambda params: type(params).__name__)


def random_tensors(*shape: int, number: int = 4, seed: int = 0) -> list[Tensor]:
    """Makes a base and experts of one tensor each."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(number)]


def merged_tensor(tensors: Sequence[Tensor], *, params: MethodParams) -> Tensor:
    """Merges models of a single tensor, the base first."""
    base, *experts = ({"w": tensor} for tensor in tensors)
    return dict(merge(base, experts, options=MergeOptions(params=params)))["w"]


def with_spectrum(rows: int, columns: int, *, values: Tensor) -> Tensor:
    """Makes a float64 matrix with given singular values."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    left, _, right = torch.linalg.svd(noise, full_matrices=False)
    return (left * values) @ right


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((), False),
        ((8,), False),
        ((1, 8), False),
        ((8, 1), False),
        ((1, 50, 768), False),
        ((8, 1, 1, 1), False),
        ((8, 1, 3, 3), True),
        ((8, 4, 1, 1), True),
        ((2, 2), True),
    ],
)
def test_matrices_have_several_rows_and_columns(shape: tuple[int, ...], *, expected: bool) -> None:
    """Kernels count, also depthwise; biases, tokens and single rows or columns do not."""
    weight = Weight(name="w", base_state={"w": torch.zeros(shape)}, expert_states=())
    assert is_matrix(weight) is expected


@pytest.mark.parametrize(("rows", "columns"), [(40, 70), (70, 40)])
def test_triples_are_those_of_a_decomposition(rows: int, columns: int) -> None:
    """Over a spectrum down to 1e-4, values agree to 1e-7 and the rank-k part to 1e-9."""
    matrix = with_spectrum(rows, columns, values=torch.logspace(0, -4, 40, dtype=torch.float64))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    triples = leading_triples(matrix, rank=25)
    torch.testing.assert_close(triples.values, values[:25], rtol=1e-7, atol=0)
    part = (triples.left * triples.values) @ triples.right
    expected = (left[:, :25] * values[:25]) @ right[:25]
    torch.testing.assert_close(part, expected, rtol=0, atol=1e-9)


def test_triples_of_value_zero_have_vectors_of_zero() -> None:
    """The library's arbitrary vectors for zero values are never returned."""
    triples = leading_triples(torch.diag(torch.tensor([0.0, 5.0, 0.0]).double()), rank=3)
    assert triples.values.tolist() == [5, 0, 0]
    assert torch.equal(triples.left.norm(dim=0), torch.tensor([1.0, 0.0, 0.0]).double())
    assert torch.equal(triples.right.norm(dim=1), torch.tensor([1.0, 0.0, 0.0]).double())


def test_the_nearest_isometry_by_hand() -> None:
    """(1 .6; 0 .8) becomes the rotation (3 1; -1 3) / sqrt(10)."""
    found = nearest_isometry(torch.tensor([[1, 0.6], [0, 0.8]], dtype=torch.float64))
    expected = torch.tensor([[3, 1], [-1, 3]], dtype=torch.float64) / 10**0.5
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("rows", "columns"), [(6, 20), (20, 6)])
def test_the_nearest_isometry_is_orthonormal(rows: int, columns: int) -> None:
    """All its singular values are one, in float64."""
    matrix = with_spectrum(rows, columns, values=torch.logspace(0, -3, 6, dtype=torch.float64))
    values = torch.linalg.svdvals(nearest_isometry(matrix))
    torch.testing.assert_close(values, torch.ones(6, dtype=torch.float64), rtol=0, atol=1e-9)


@every_method
@pytest.mark.parametrize("kernel", [(6, 2, 3, 3), (18, 1, 3, 3), (4, 6, 1, 1)])
def test_a_kernel_merges_as_the_matrix_of_its_output_channels(
    params: MethodParams, kernel: tuple[int, ...]
) -> None:
    """Reshaping before or after the merge gives the same bits, also for grouped kernels."""
    tensors = random_tensors(*kernel)
    matrices = [tensor.flatten(1) for tensor in tensors]
    expected = merged_tensor(matrices, params=params).view(kernel)
    assert torch.equal(merged_tensor(tensors, params=params), expected)


@every_method
def test_matrices_do_not_merge_as_vectors_do(params: MethodParams) -> None:
    """On kernels a spectral method does more than average."""
    tensors = random_tensors(6, 2, 3, 3)
    mean = torch.stack(tensors[1:]).mean(dim=0)
    assert (merged_tensor(tensors, params=params) - mean).abs().max() > 0.1


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (TsvMParams(scaling=2), [7, 1]),
        (IsoCParams(scaling=2), [7, 1]),
        (IsoCtsParams(scaling=2), [7, 1]),
        (WudiParams(), [4, 1]),
    ],
)
@pytest.mark.parametrize("shape", [(2,), (1, 2), (2, 1, 1, 1)])
def test_vectors_take_the_scaled_mean_of_the_task_vectors(
    params: MethodParams, expected: list[float], shape: tuple[int, ...]
) -> None:
    """Task vectors (2 1) and (4 -1) on (1 1) have the mean (3 0)."""
    tensors = [torch.tensor(each).view(shape) for each in ([1.0, 1.0], [3.0, 2.0], [5.0, 0.0])]
    assert merged_tensor(tensors, params=params).flatten().tolist() == expected


@every_method
@pytest.mark.parametrize("shape", [(7, 20), (20, 7)])
def test_permuted_channels_merge_to_the_permuted_result(
    params: MethodParams, shape: tuple[int, int]
) -> None:
    """The order of inputs and outputs does not affect a method."""
    tensors = random_tensors(*shape)
    generator = torch.Generator().manual_seed(1)
    rows = torch.randperm(shape[0], generator=generator)
    columns = torch.randperm(shape[1], generator=generator)
    there = merged_tensor([tensor[rows][:, columns] for tensor in tensors], params=params)
    expected = merged_tensor(tensors, params=params)[rows][:, columns]
    torch.testing.assert_close(there, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("params", [TsvMParams(), IsoCParams()], ids=["tsv_m", "iso_c"])
def test_transposed_matrices_merge_to_the_transposed_result(params: MethodParams) -> None:
    """These methods treat both sides of a matrix alike."""
    tensors = random_tensors(7, 20)
    there = merged_tensor([tensor.T for tensor in tensors], params=params)
    expected = merged_tensor(tensors, params=params).T
    torch.testing.assert_close(there, expected, rtol=0, atol=1e-5)


@every_method
def test_the_order_of_experts_changes_no_more_than_rounding(params: MethodParams) -> None:
    """Concatenations are permuted, and sums are rounded differently."""
    base, *experts = random_tensors(9, 30)
    there = merged_tensor([base, *experts], params=params)
    back = merged_tensor([base, *experts[::-1]], params=params)
    torch.testing.assert_close(there, back, rtol=0, atol=2e-5)


@every_method
def test_experts_equal_to_the_base_merge_to_it(params: MethodParams) -> None:
    """Matrices of zeros have no directions, so the base stays, bit for bit."""
    base = random_tensors(6, 2, 3, 3)[0]
    assert torch.equal(merged_tensor([base, base, base], params=params), base)


@every_method
def test_one_expert_equal_to_the_base_is_no_obstacle(params: MethodParams) -> None:
    """A matrix of zeros among others leads to no division by zero."""
    base, *experts = random_tensors(6, 10)
    merged = merged_tensor([base, base, *experts], params=params)
    assert (merged - base).abs().max() > 0.1


@every_method
def test_matrices_that_lack_directions_merge_as_a_function_of_their_entries(
    params: MethodParams,
) -> None:
    """For matrices of rank two of six, with a row of zeros, permuting permutes the result.

    Arbitrary vectors of zero values would not follow the permutation.
    """
    factors = random_tensors(6, 2, number=3), random_tensors(2, 12, number=3, seed=1)
    vectors = [left @ right for left, right in zip(*factors, strict=True)]
    for vector in vectors:
        vector[4] = 0
    tensors = [torch.zeros(6, 12), *vectors]
    rows = torch.tensor([3, 4, 0, 5, 1, 2])
    there = merged_tensor([tensor[rows] for tensor in tensors], params=params)
    merged = merged_tensor(tensors, params=params)
    torch.testing.assert_close(there, merged[rows], rtol=0, atol=2e-5)
    assert torch.equal(merged[4], torch.zeros(12))


@every_method
def test_more_experts_than_directions_merge(params: MethodParams) -> None:
    """Seven experts share a rank of two, and the result has entries of their size."""
    merged = merged_tensor(random_tensors(2, 30, number=8), params=params)
    assert 0.01 < merged.abs().max() < 100


@every_method
def test_threads_change_no_bit(params: MethodParams) -> None:
    """Tensors that are decomposed at the same time do not affect each other."""
    states = [
        {f"w{index}": tensor for index, tensor in enumerate(random_tensors(24, 60, seed=seed))}
        for seed in range(4)
    ]
    alone = dict(merge(states[0], states[1:], options=MergeOptions(params=params)))
    threaded = dict(
        merge(states[0], states[1:], options=MergeOptions(params=params, num_threads=3))
    )
    assert all(torch.equal(alone[name], threaded[name]) for name in alone)


@pytest.mark.parametrize(
    ("name", "percent"),
    [("resnet18", 99.91), ("resnet50", 99.77), ("vit_base_patch32_224", 99.82)],
)
@every_method
def test_nearly_all_of_a_backbone_is_matrices(
    params: MethodParams, name: str, percent: float
) -> None:
    """Only normalizations, biases, the class token and the position table are averaged."""
    with torch.device("meta"):
        state = timm.create_model(name, num_classes=0).state_dict()
    assert round(100 * coverage(state, params=params), 2) == percent
