from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from merge.merge import MergeOptions, merge
from merge.parameters.with_data import AdaMergingParams
from merge.sign_election import threshold
from merge.weight import Weight

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch.nn import Module

    MakeProbe = Callable[..., Any]

NUM_EXPERTS = 3


def network() -> Module:
    """Returns a small network with a convolution, a normalization and a matrix."""
    generator = torch.Generator().manual_seed(0)
    layers = nn.Sequential(
        nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    )
    with torch.no_grad():
        for weight in layers.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return layers.eval()


MODEL = network()


def run_network(state: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """Returns logits: (images, 6) to (images, 3)."""
    logits: Tensor = functional_call(MODEL, dict(state), (images[:, None],))
    return logits


def weights_of_group() -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    base = {name: weight.detach().clone() for name, weight in MODEL.named_parameters()}
    generator = torch.Generator().manual_seed(1)
    experts = [
        {name: each + torch.randn(each.shape, generator=generator) for name, each in base.items()}
        for _ in range(NUM_EXPERTS)
    ]
    return base, experts


def learned_by_autograd(
    params: AdaMergingParams,
    *,
    probe: Any,  # noqa: ANN401 the class is a fixture's
    vectors: list[dict[str, Tensor]],
) -> dict[str, Tensor]:
    """Merges with coefficients and model in one autograd graph, as the reference."""
    base, _ = weights_of_group()
    num_rows = len(base) if params.level == "tensor" else 1
    free = torch.full((num_rows, NUM_EXPERTS), params.initial, requires_grad=True)
    optimizer = torch.optim.Adam([free], lr=params.lr)

    def merged() -> dict[str, Tensor]:
        used = free.clamp(0, 1) if params.clamp else free
        rows = used.expand(len(base), -1)
        return {
            name: base[name] + sum(row[i] * vectors[i][name] for i in range(NUM_EXPERTS))
            for name, row in zip(base, rows, strict=True)
        }

    for step in range(params.steps):
        state = merged()
        rows = torch.arange(step * params.batch_size, (step + 1) * params.batch_size) % 12
        loss = torch.zeros(())
        for images in probe.images:
            logits = run_network(state, images[rows])
            loss = loss - (logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: tensor.detach() for name, tensor in merged().items()}


@pytest.mark.parametrize(
    "params",
    [
        AdaMergingParams(steps=6, lr=0.05, batch_size=4),
        AdaMergingParams(steps=6, lr=0.05, batch_size=4, level="model"),
        AdaMergingParams(steps=6, lr=0.3, batch_size=4),
        AdaMergingParams(steps=6, lr=0.3, batch_size=4, clamp=False),
        AdaMergingParams(steps=6, lr=0.05, batch_size=4, trim_density=0.3),
    ],
    ids=repr,
)
def test_coefficients_are_those_of_one_graph_over_all_experts(
    params: AdaMergingParams, toy_probe: MakeProbe
) -> None:
    """Autograd through a graph of all experts gives the same steps of Adam."""
    base, experts = weights_of_group()
    weights = [Weight(name=name, base_state=base, expert_states=experts) for name in base]
    vectors = []
    for index, expert in enumerate(experts):
        least = threshold(weights, index, density=params.trim_density, vector_of=Weight.task_vector)
        full = {name: expert[name] - base[name] for name in base}
        vectors.append({name: each * (each.abs() >= least) for name, each in full.items()})
    probe = toy_probe(run_network, num_tasks=NUM_EXPERTS, width=6, num_classes=3)
    expected = learned_by_autograd(params, probe=probe, vectors=vectors)
    for name, tensor in merge(base, experts, options=MergeOptions(params=params, probe=probe)):
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-4)


def line(state: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """A model of two classes, whose logits differ by w times the image."""
    difference = state["w"] * images
    return torch.cat([difference, torch.zeros_like(difference)], dim=1)


@pytest.mark.parametrize(("initial", "expected"), [(0.3, 0.4), (0.95, 1.0)])
def test_the_first_step_moves_by_the_step_size_towards_certainty(
    toy_probe: MakeProbe, initial: float, expected: float
) -> None:
    """Adam's first step is its step size, and larger logits are more certain: 0.3 goes to 0.4.

    From 0.95 it goes to 1.05, which is clamped to 1.
    """
    base, expert = {"w": torch.zeros(1)}, {"w": torch.ones(1)}
    params = AdaMergingParams(initial=initial, steps=1, lr=0.1)
    probe = toy_probe(line, num_tasks=1)
    merged = dict(merge(base, [expert], options=MergeOptions(params=params, probe=probe)))
    assert merged["w"].item() == pytest.approx(expected)


def test_a_weight_that_no_prediction_depends_on_keeps_the_initial_coefficients(
    toy_probe: MakeProbe,
) -> None:
    """By hand: 0 + 0.3 (2 + 4)."""
    base = {"w": torch.zeros(1), "unused": torch.zeros(1)}
    experts = [{"w": torch.ones(1), "unused": torch.tensor([value])} for value in (2.0, 4.0)]
    probe = toy_probe(line, num_tasks=2)
    merged = dict(
        merge(base, experts, options=MergeOptions(params=AdaMergingParams(steps=2), probe=probe))
    )
    assert merged["unused"].item() == pytest.approx(1.8)
