from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from merge.merge import MergeOptions, coverage, merge
from merge.operators import regmean
from merge.parameters.with_data import RegMeanParams

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    MakeProbe = Callable[..., Any]

WIDTH, OUT = 4, 3


def linear(state: Mapping[str, Tensor], images: Tensor) -> Tensor:
    return images @ state["w"].T + state["b"]


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def experts() -> list[dict[str, Tensor]]:
    return [{"w": draw(OUT, WIDTH, seed=i), "b": draw(OUT, seed=9 + i)} for i in range(2)]


def merged_w(
    params: RegMeanParams, *, images: list[Tensor], toy_probe: MakeProbe
) -> tuple[Tensor, Tensor]:
    base = {"w": torch.zeros(OUT, WIDTH), "b": torch.zeros(OUT)}
    labels = [torch.zeros(len(each), dtype=torch.int64) for each in images]
    probe = toy_probe(linear, images=images, labels=labels, matrix="w")
    merged = dict(merge(base, experts(), options=MergeOptions(params=params, probe=probe)))
    return merged["w"], merged["b"]


def test_without_reduction_it_is_least_squares_on_the_union(toy_probe: MakeProbe) -> None:
    """It regresses the experts' outputs on their own images, over all images together."""
    images = [draw(20, WIDTH, seed=5), 3 * draw(30, WIDTH, seed=6)]
    merged, bias = merged_w(RegMeanParams(reduce=1), images=images, toy_probe=toy_probe)
    targets = [x @ expert["w"].T for x, expert in zip(images, experts(), strict=True)]
    solved = torch.linalg.lstsq(torch.cat(images).double(), torch.cat(targets).double())
    torch.testing.assert_close(merged, solved.solution.T.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(bias, (experts()[0]["b"] + experts()[1]["b"]) / 2)


def test_reduction_scales_what_is_off_the_diagonal(toy_probe: MakeProbe) -> None:
    """The result is the paper's formula with an explicit inverse."""
    images = [draw(20, WIDTH, seed=5), 3 * draw(30, WIDTH, seed=6)]
    merged, _ = merged_w(RegMeanParams(reduce=0.3), images=images, toy_probe=toy_probe)
    grams = []
    for x in images:
        gram = x.double().T @ x.double()
        grams.append(0.3 * gram + 0.7 * gram.diagonal().diag())
    moment = sum(g @ e["w"].double().T for g, e in zip(grams, experts(), strict=True))
    expected = (grams[0] + grams[1]).inverse() @ moment
    torch.testing.assert_close(merged, expected.T.float(), rtol=1e-5, atol=1e-5)


def test_reduced_to_the_diagonal_columns_are_weighted_by_their_inputs(
    toy_probe: MakeProbe,
) -> None:
    """By hand: inputs with squares 1 and 3 weight the experts' columns 1 to 3."""
    images = [torch.ones(1, WIDTH), 3**0.5 * torch.ones(1, WIDTH)]
    merged, _ = merged_w(RegMeanParams(reduce=0), images=images, toy_probe=toy_probe)
    first, second = (expert["w"] for expert in experts())
    torch.testing.assert_close(merged, first / 4 + second * 3 / 4)


@pytest.mark.parametrize("reduce", [0.9, 1.0])
def test_an_input_that_is_always_zero_leaves_its_column_averaged(
    toy_probe: MakeProbe, reduce: float
) -> None:
    """Its equations are singular; the other columns are solved for."""
    mask = torch.tensor([1.0, 0.0, 1.0, 1.0])
    images = [draw(20, WIDTH, seed=5) * mask, draw(20, WIDTH, seed=6) * mask]
    merged, _ = merged_w(RegMeanParams(reduce=reduce), images=images, toy_probe=toy_probe)
    average = (experts()[0]["w"] + experts()[1]["w"]) / 2
    torch.testing.assert_close(merged[:, 1], average[:, 1])
    assert not torch.allclose(merged[:, 0], average[:, 0], rtol=1e-2)


@pytest.mark.parametrize("reduce", [0.9, 1.0])
def test_fewer_images_than_inputs_have_a_solution(toy_probe: MakeProbe, reduce: float) -> None:
    """Without reduction, the outputs on all images are met exactly."""
    images = [draw(2, WIDTH, seed=5), draw(1, WIDTH, seed=6)]
    merged, _ = merged_w(RegMeanParams(reduce=reduce), images=images, toy_probe=toy_probe)
    for x, expert in zip(images, experts(), strict=True):
        if reduce == 1:
            torch.testing.assert_close(x @ merged.T, x @ expert["w"].T, rtol=1e-4, atol=1e-4)
        assert merged.abs().max() < 10


def test_equal_experts_are_a_fixed_point(toy_probe: MakeProbe) -> None:
    """The correction to the experts' mean is zero, whatever their inputs are."""
    expert = experts()[0]
    probe = toy_probe(linear, num_tasks=2, width=WIDTH, matrix="w")
    merged = dict(
        merge(expert, [expert, expert], options=MergeOptions(params=RegMeanParams(), probe=probe))
    )
    assert torch.equal(merged["w"], expert["w"])


def test_portions_change_no_bit(toy_probe: MakeProbe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are independent, solved one at a time or all together."""
    state = {"a": draw(2, 5, seed=1), "b": draw(3, 5, seed=2), "c": draw(1, 5, seed=3)}
    others = {name: tensor + 1 for name, tensor in state.items()}
    probe = toy_probe(lambda *_: torch.zeros(1), num_tasks=2, width=5)
    monkeypatch.setattr(type(probe), "gram_names", lambda _: ["a", "b", "c"])
    together = dict(
        merge(state, [state, others], options=MergeOptions(params=RegMeanParams(), probe=probe))
    )
    for entries in (1, 50):
        monkeypatch.setattr(regmean, "PORTION_ENTRIES", entries)
        apart = dict(
            merge(state, [state, others], options=MergeOptions(params=RegMeanParams(), probe=probe))
        )
        assert all(torch.equal(together[name], apart[name]) for name in state)


def test_coverage_counts_matrices_and_kernels_that_see_several_channels() -> None:
    """By hand: 6 + 24 of 6 + 24 + 8 + 2 entries."""
    shapes = {"linear": (3, 2), "kernel": (2, 3, 2, 2), "depthwise": (2, 1, 2, 2), "bias": (2,)}
    base = {name: torch.zeros(shape) for name, shape in shapes.items()}
    assert coverage(base, params=RegMeanParams()) == pytest.approx(30 / 40)
