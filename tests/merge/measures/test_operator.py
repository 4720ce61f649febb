import numpy as np
import pytest
import torch

from merge.catalogue import CHANGE_TASK_VECTORS, parse_params
from merge.errors import MergeError
from merge.measures.operator import leave_one_out, measure_products
from merge.measures.parts import PARTS, WITHOUT_PARTS
from merge.merge import MergeOptions, merge, open_merge
from merge.table import METHODS
from merge.weight import BLOCK_ENTRIES

State = dict[str, torch.Tensor]


def states(num_experts: int, *, shape: tuple[int, ...] = (16, 24)) -> tuple[State, list[State]]:
    """Returns a base and experts that share a direction, with a running mean beside the weight."""
    generator = torch.Generator().manual_seed(0)

    def draw(*, scale: float) -> torch.Tensor:
        return scale * torch.randn(shape, generator=generator)

    start, shared = draw(scale=1), draw(scale=0.3)
    base = {"weight": start, "norm.running_mean": torch.zeros(3), "norm.running_var": torch.ones(3)}
    experts = [
        {**base, "weight": start + shared + draw(scale=1) ** 3, "norm.running_mean": torch.ones(3)}
        for _ in range(num_experts)
    ]
    return base, experts


def options(method: str, **params: object) -> MergeOptions:
    return MergeOptions(params=parse_params(method, params), seed=3)


def merged_vector(base: State, experts: list[State], *, how: MergeOptions) -> torch.Tensor:
    return dict(merge(base, experts, options=how))["weight"] - base["weight"]


def vectors(base: State, experts: list[State]) -> np.ndarray:
    return np.array([(each["weight"] - base["weight"]).flatten().numpy() for each in experts])


@pytest.mark.parametrize(
    ("method", "params", "share"),
    [
        ("ties", {"density": 0.3}, 1),
        ("ties", {"density": 0.3, "scope": "tensor"}, 1),
        ("dare", {"density": 0.4}, 1),
        ("dare", {"density": 0.4, "rescale": False}, 1),
        ("dare_ties", {}, 1),
        ("breadcrumbs", {"gamma": 0.1, "density": 0.5}, 1),
        ("della", {"consensus": "sum"}, 1),
        ("della", {"consensus": "sum", "elect": False}, 1),
        ("consensus_ta", {}, 1),
        ("magmax", {}, 1),
        ("pcb", {}, 1 / 3),
    ],
)
def test_parts_add_up_to_the_merge(method: str, params: dict[str, object], share: float) -> None:
    """Times the scaling, the sum of the parts is the method's own result."""
    base, experts = states(3)
    how = options(method, **params)
    (weight,), recipe = open_merge(base, experts, options=how)
    (parts,) = PARTS[method](weight, recipe)
    expected = merged_vector(base, experts, how=how).flatten()
    scaling = how.params.scaling  # type: ignore[attr-defined]
    assert (share * scaling * sum(parts)).numpy() == pytest.approx(expected.numpy(), abs=1e-5)


@pytest.mark.parametrize("method", ["average", "task_arithmetic", "model_stock", "fisher"])
def test_linear_methods_change_no_inner_product(method: str) -> None:
    """Those before are exact, and statistics are not in them; learning needs no data here."""
    base, experts = states(3)
    products = measure_products(base, experts, options=options(method))
    assert products.after == products.before
    taus = vectors(base, experts)
    assert np.array(products.before) == pytest.approx(taus @ taus.T, rel=1e-5)


def test_every_method_is_linear_or_has_parts_or_is_known_to_have_none() -> None:
    """A new method must be put in one of the three lists."""
    linear = {
        *("average", "weighted_average", "task_arithmetic", "slerp", "model_stock", "fisher"),
        *("regmean", "adamerging", "frank_wolfe", "frank_wolfe_soft", "greedy_soup"),
    }
    assert PARTS.keys() | WITHOUT_PARTS == CHANGE_TASK_VECTORS
    assert linear | CHANGE_TASK_VECTORS == METHODS.keys()
    assert not linear & CHANGE_TASK_VECTORS


def test_spectral_methods_have_no_products_after() -> None:
    """No part of their result is one expert's."""
    base, experts = states(3)
    assert measure_products(base, experts, options=options("tsv_m")).after is None


def test_models_of_tasks_are_their_parts() -> None:
    """EMR's vectors are those of the tasks' own models."""
    base, experts = states(3)
    after = measure_products(base, experts, options=options("emr")).after
    assert after is not None
    assert np.array(after).shape == (3, 3)
    assert np.linalg.eigvalsh(np.array(after)).min() > -1e-6


def test_products_of_tensors_larger_than_a_block_are_whole() -> None:
    """Blocks are added up."""
    base, experts = states(2, shape=(BLOCK_ENTRIES + 5,))
    before = measure_products(base, experts, options=options("ties")).before
    taus = vectors(base, experts).astype(float)
    assert np.array(before) == pytest.approx(taus @ taus.T, rel=1e-6)


def test_leaving_an_expert_out_of_an_average_moves_its_share() -> None:
    """|tau_i|^2 / N^2; signs flip where the others point the other way."""
    base, experts = states(3)
    result = leave_one_out(base, experts, options=options("average"))
    taus = vectors(base, experts)
    assert result.moved == pytest.approx((taus**2).sum(axis=1) / 9, rel=1e-4)
    total = taus.sum(axis=0)
    flips = [np.mean(total * (total - tau) < 0) for tau in taus]
    assert result.flipped == pytest.approx(flips, abs=1e-9)


def test_masks_stay_when_an_expert_is_left_out() -> None:
    """DARE moves by exactly that expert's thinned vector; another mask would move all of them."""
    base, experts = states(3)
    how = options("dare", density=0.5, scaling=1.0)
    (weight,), recipe = open_merge(base, experts, options=how)
    (parts,) = PARTS["dare"](weight, recipe)
    moved = leave_one_out(base, experts, options=how).moved
    assert moved == pytest.approx([float(part.square().sum()) for part in parts], rel=1e-4)


def test_election_by_hand() -> None:
    """Leaving the decisive expert out flips one of two entries."""
    base = {"weight": torch.zeros(2)}
    experts = [{"weight": torch.tensor(each)} for each in ([3.0, 1.0], [-1.0, 1.0], [-1.0, 1.0])]
    how = options("ties", density=1.0, scaling=1.0)
    result = leave_one_out(base, experts, options=how)
    assert result.flipped == pytest.approx((0.5, 0, 0))
    assert result.moved == pytest.approx((25 + 1, 1, 1))  # 3 becomes -2, and one vote less


def test_elections_lower_the_spread_and_raise_the_instability() -> None:
    """The seed paper's corollary has the first and lacks the second."""
    base, experts = states(8, shape=(4000,))
    ties = options("ties", density=0.2, scaling=1 / 8)
    products = measure_products(base, experts, options=ties)

    def spread(gram: object) -> float:
        matrix = np.array(gram)
        return float(np.trace(matrix) / 8 - matrix.sum() / 64)

    assert spread(products.after) < 0.9 * spread(products.before)
    average = leave_one_out(base, experts, options=options("average"))
    assert sum(leave_one_out(base, experts, options=ties).moved) > sum(average.moved)


def test_method_that_learns_from_data_cannot_leave_out() -> None:
    """It would have to learn N + 1 times."""
    base, experts = states(2)
    with pytest.raises(MergeError, match="test images"):
        leave_one_out(base, experts, options=options("adamerging"))
