from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from merge.merge import MergeOptions, merge
from merge.operators.frank_wolfe_soft import into_hull
from merge.parameters.with_data import FrankWolfeSoftParams

if TYPE_CHECKING:
    from collections.abc import Sequence

    MakeProbe = Callable[..., Any]


def margins(state: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """Logistic regression on the joined weights; class 0 wins if the sum is positive."""
    difference = images @ torch.cat([state["a"], state["b"]])
    return torch.stack([difference, torch.zeros_like(difference)], dim=1)


def state(a: float, b: float) -> dict[str, Tensor]:
    return {"a": torch.tensor([float(a)]), "b": torch.tensor([float(b)])}


POOL = [state(1, 0), state(0, 3), state(-5, -5)]
ONE_STEP = {"iterations": 1, "steps": 1, "lr": 0.1}


def toward(
    *tasks: list[list[float]],
    toy_probe: MakeProbe,
    pool: Sequence[Mapping[str, Tensor]] = POOL,
    **params: Any,  # noqa: ANN401 any field
) -> list[float]:
    """Merges a pool from (0 0) on tasks whose images are all of class 0."""
    images = [torch.tensor(task) for task in tasks]
    labels = [torch.zeros(len(task)).long() for task in tasks]
    probe = toy_probe(margins, images=images, labels=labels)
    merged = dict(
        merge(
            state(0, 0),
            pool,
            options=MergeOptions(params=FrankWolfeSoftParams(**params), probe=probe),
        )
    )
    return [float(merged["a"]), float(merged["b"])]


def test_the_first_move_is_learned_from_a_share_of_the_expert_chosen(toy_probe: MakeProbe) -> None:
    """By hand: (0 3) has the least product, and Adam's first step moves its 0.3 to 0.4."""
    found = toward([[0.0, 1.0]], toy_probe=toy_probe, **ONE_STEP)
    assert found == pytest.approx([0.0, 0.4 * 3])


def test_later_moves_go_part_of_the_way_that_is_left(toy_probe: MakeProbe) -> None:
    """By hand: from 1.2 the second move goes 0.01 + 0.1 of the way to 3."""
    params = ONE_STEP | {"iterations": 2, "initial_later": 0.01}
    found = toward([[0.0, 1.0]], toy_probe=toy_probe, **params)
    assert found == pytest.approx([0.0, 1.2 + 0.11 * (3 - 1.2)])


def test_a_move_beyond_the_best_expert_is_taken_back(toy_probe: MakeProbe) -> None:
    """From 1.2 x 3 the loss still falls, in the direction away from 3."""
    params = ONE_STEP | {"iterations": 2, "initial": 1.1, "initial_later": 0.2}
    found = toward([[0.0, 1.0]], toy_probe=toy_probe, **params)
    assert found[1] == pytest.approx(3.6 + (0.2 - 0.1) * (3 - 3.6))


def test_each_task_chooses_an_expert_that_is_left(toy_probe: MakeProbe) -> None:
    """Both tasks prefer (0 3); the second takes (1 0), and none takes (-5 -5)."""
    found = toward([[0.0, 1.0]], [[0.0, 1.0]], toy_probe=toy_probe, **ONE_STEP)
    assert found == pytest.approx([0.3, 1.2])


@pytest.mark.parametrize(
    ("top_k", "expected"), [(1, [0.0, 1.2]), (2, [0.4, 1.2]), (9, [0.4 - 1.0, 1.2 - 1.0])]
)
def test_the_first_k_are_chosen_by_the_summed_loss(
    toy_probe: MakeProbe, top_k: int, expected: list[float]
) -> None:
    """By hand: products are -0.5, -1.5 and 5; the 0.3 of (-5 -5) falls to 0.2."""
    tasks = [[1.0, 0.0]], [[0.0, 1.0]]
    found = toward(*tasks, toy_probe=toy_probe, top_k=top_k, **ONE_STEP)
    assert found == pytest.approx(expected)


def test_each_tensor_may_choose_its_own(toy_probe: MakeProbe) -> None:
    """By hand: a chooses (1 0) and b chooses (0 3); the model would choose (1 0) for both."""
    images = [[1.0, 0.3]]
    apart = toward(images, toy_probe=toy_probe, granularity="tensor", **ONE_STEP)
    assert apart == pytest.approx([0.4, 1.2])
    assert toward(images, toy_probe=toy_probe, **ONE_STEP) == pytest.approx([0.4, 0.0])


@pytest.mark.parametrize("granularity", ["model", "tensor"])
def test_irrelevant_experts_in_the_pool_change_no_bit(
    toy_probe: MakeProbe, granularity: str
) -> None:
    """The pool may exceed the number of tasks; experts that are never chosen have no effect."""
    params = {"iterations": 3, "steps": 5, "lr": 0.05, "granularity": granularity}
    tasks = [[1.0, 0.2], [0.8, 0.1]], [[0.1, 1.0]]
    alone = toward(*tasks, toy_probe=toy_probe, pool=POOL[:2], **params)
    crowd = [state(-1, -index) for index in range(1, 7)]
    pool = [*crowd[:3], *POOL[:2], *crowd[3:]]
    assert toward(*tasks, toy_probe=toy_probe, pool=pool, **params) == alone


class CountingState(Mapping[str, Tensor]):
    """A state that counts how often its tensors are read."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self.num_reads: Counter[str] = Counter()

    def __getitem__(self, name: str) -> Tensor:
        self.num_reads[name] += 1
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def test_an_expert_that_was_never_chosen_is_read_once_a_choice(toy_probe: MakeProbe) -> None:
    """Steps of Adam do not read it, so a large pool costs little."""
    counts = []
    for steps in (1, 20):
        idle = CountingState(POOL[2])
        pool = [POOL[0], idle]
        toward([[1.0, 0.0]], toy_probe=toy_probe, pool=pool, iterations=3, steps=steps)
        counts.append(idle.num_reads["a"])
    assert counts[0] == counts[1]


def test_one_expert_is_reached_and_stays(toy_probe: MakeProbe) -> None:
    """After a first move of the whole way, later moves have no effect."""
    params = {"initial": 1.0, "initial_later": 0.5, "iterations": 3, "steps": 1, "lr": 1e-9}
    found = toward([[0.0, 1.0]], toy_probe=toy_probe, pool=POOL[1:2], **params)
    assert found == pytest.approx([0.0, 3.0])


@pytest.mark.parametrize("top_k", [0, 2])
def test_equal_experts_give_a_model_on_the_way_to_them(toy_probe: MakeProbe, top_k: int) -> None:
    """In the hull the model lies between base and expert, whichever experts move it."""
    pool = [state(1, 2)] * 4
    params = {"iterations": 3, "steps": 4, "lr": 0.2, "in_hull": True, "top_k": top_k}
    found = toward([[1.0, 1.0]], [[0.5, 1.0]], toy_probe=toy_probe, pool=pool, **params)
    assert 0 < found[0] <= 1 + 1e-6
    assert found[1] / 2 == pytest.approx(found[0])


def test_equal_products_go_to_the_first(toy_probe: MakeProbe) -> None:
    """Without a gradient the order decides, and Adam does not move."""
    assert toward([[0.0, 0.0]], toy_probe=toy_probe, **ONE_STEP) == pytest.approx([0.3, 0.0])


@pytest.mark.parametrize(("granularity", "expected"), [("model", 0.3 * 2), ("tensor", 0.0)])
def test_a_weight_that_no_prediction_depends_on_follows_the_model_or_stays(
    toy_probe: MakeProbe, granularity: str, expected: float
) -> None:
    """It has no gradient: it moves with the model's choice, or stays if tensors choose."""
    base = state(0, 0) | {"unused": torch.zeros(1)}
    experts = [each | {"unused": torch.tensor([2.0])} for each in POOL]
    probe = toy_probe(margins, images=[torch.ones(1, 2)], labels=[torch.zeros(1).long()])
    params = FrankWolfeSoftParams(granularity=granularity, **ONE_STEP)
    merged = dict(merge(base, experts, options=MergeOptions(params=params, probe=probe)))
    assert float(merged["unused"]) == pytest.approx(expected)


def test_moves_approach_the_best_mixture(toy_probe: MakeProbe) -> None:
    """The loss is convex; a ranges from -5 to 1 and b from -5 to 3, each with its own fractions.

    A grid finds the least value. Two experts are chosen for each move.
    """
    images = [[1.0, -0.2], [-0.4, 1.0], [-2.0, -1.0]]

    def loss(a: float, b: float) -> float:
        logits = margins(state(a, b), torch.tensor(images))
        return float(functional.cross_entropy(logits, torch.zeros(3).long()))

    grid = product(torch.linspace(-5, 1, 31).tolist(), torch.linspace(-5, 3, 41).tolist())
    best = min(loss(a, b) for a, b in grid)
    params = {"top_k": 2, "in_hull": True, "steps": 50, "lr": 0.02, "batch_size": 3}
    found = toward(images, toy_probe=toy_probe, iterations=8, images=3, **params)
    assert loss(0, 0) > loss(*found) + 0.05
    assert loss(*found) == pytest.approx(best, abs=0.01)


def network(state: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """Two layers: (images, 6) to (images, 3)."""
    return torch.tanh(images @ state["in"].T + state["bias"]) @ state["out"].T


NETWORK = {"in": (5, 6), "bias": (5,), "out": (3, 5)}


def summed_loss(
    model: Mapping[str, Tensor],
    *,
    probe: Any,  # noqa: ANN401 the class is a fixture's
    tasks: Sequence[int],
    name: str,
    rows: Tensor,
) -> Tensor:
    total = torch.zeros(())
    for task in tasks:
        logits = network(model, probe.images[task][rows])
        if name == "cross_entropy":
            total = total + functional.cross_entropy(logits, probe.labels[task][rows])
        else:
            total = total - (logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
    return total


def chosen_by(
    model: Mapping[str, Tensor],
    *,
    params: FrankWolfeSoftParams,
    probe: Any,  # noqa: ANN401
    experts: Sequence[Mapping[str, Tensor]],
) -> list[int]:
    """Chooses experts by products with whole experts, not with task vectors."""
    every = range(len(probe.images))
    rows = torch.arange(params.images) % 12
    chosen: list[int] = []
    for tasks in [every] if params.top_k else [[task] for task in every]:
        leaves = {name: each.clone().requires_grad_() for name, each in model.items()}
        loss = summed_loss(leaves, probe=probe, tasks=tasks, name="cross_entropy", rows=rows)
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        products = [
            sum(float((g * expert[name]).sum()) for name, g in zip(leaves, gradients, strict=True))
            for expert in experts
        ]
        left = [index for index in range(len(experts)) if index not in chosen]
        chosen += sorted(left, key=products.__getitem__)[: params.top_k or 1]
    return chosen


def mixed(
    model: Mapping[str, Tensor], *, free: Tensor, experts: Sequence[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    return {
        name: each
        + sum(f * (expert[name] - each) for f, expert in zip(fractions, experts, strict=True))
        for (name, each), fractions in zip(model.items(), free, strict=True)
    }


def moved_by_autograd(
    params: FrankWolfeSoftParams,
    *,
    probe: Any,  # noqa: ANN401
    base: Mapping[str, Tensor],
    experts: Sequence[Mapping[str, Tensor]],
) -> Mapping[str, Tensor]:
    """Moves whole models with the fractions in one autograd graph, as the reference."""
    model = base
    for iteration in range(params.iterations):
        chosen = chosen_by(model, params=params, probe=probe, experts=experts)
        towards = [experts[index] for index in chosen]
        initial = params.initial_later if iteration else params.initial
        free = torch.full((len(base), len(towards)), initial, requires_grad=True)
        optimizer = torch.optim.Adam([free], lr=params.lr)
        for step in range(params.steps):
            start = (iteration * params.steps + step) * params.batch_size
            rows = torch.arange(start, start + params.batch_size) % 12
            optimizer.zero_grad()
            now = mixed(model, free=free, experts=towards)
            every = range(len(probe.images))
            summed_loss(now, probe=probe, tasks=every, name=params.loss, rows=rows).backward()
            optimizer.step()
        model = mixed(model, free=free.detach(), experts=towards)
    return model


@pytest.mark.parametrize(
    "params",
    [
        FrankWolfeSoftParams(iterations=3, steps=4, lr=0.05, images=12, batch_size=4),
        FrankWolfeSoftParams(
            iterations=3, steps=4, lr=0.05, images=8, batch_size=4, top_k=3, loss="entropy"
        ),
    ],
    ids=["a choice a task", "the first three"],
)
def test_moves_are_those_of_whole_models_in_one_graph(
    toy_probe: MakeProbe, params: FrankWolfeSoftParams
) -> None:
    """A pool of five experts for two tasks gives the models of the reference."""
    generator = torch.Generator().manual_seed(5)

    def draw(scale: float) -> dict[str, Tensor]:
        return {
            name: scale * torch.randn(shape, generator=generator) for name, shape in NETWORK.items()
        }

    base = draw(1.0)
    experts = [{name: base[name] + each for name, each in draw(0.5).items()} for _ in range(5)]
    probe = toy_probe(network, num_tasks=2, width=6, num_classes=3)
    expected = moved_by_autograd(params, probe=probe, base=base, experts=experts)
    for name, tensor in merge(base, experts, options=MergeOptions(params=params, probe=probe)):
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-4)


def test_rows_are_taken_to_the_nearest_in_the_hull() -> None:
    """By hand: 0.3 too much is taken from both entries of the third row."""
    rows = [[0.5, 0.25], [2.0, 0.0], [0.9, 0.7], [-1.0, 0.5], [-1.0, -2.0], [1.0, 1.0]]
    expected = [[0.5, 0.25], [1.0, 0.0], [0.6, 0.4], [0.0, 0.5], [0.0, 0.0], [0.5, 0.5]]
    found = into_hull(torch.tensor(rows, dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_no_row_in_the_hull_is_nearer() -> None:
    """No random row of the hull is nearer, and rows in the hull do not move."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(200, 5, generator=generator, dtype=torch.float64)
    found = into_hull(rows)
    assert bool((found >= 0).all())
    assert float(found.sum(dim=1).max()) <= 1 + 1e-12
    torch.testing.assert_close(into_hull(found), found)
    others = torch.rand(300, 5, generator=generator, dtype=torch.float64).clamp(min=1e-9)
    others = others / others.sum(dim=1, keepdim=True) * torch.linspace(0, 1, 300)[:, None]
    least = torch.cdist(rows, others).min(dim=1).values
    assert bool(((rows - found).norm(dim=1) <= least + 1e-12).all())
