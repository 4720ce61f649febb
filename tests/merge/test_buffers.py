from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from merge.errors import InvalidStatisticsError, NonFiniteInputError
from merge.merge import MergeOptions, merge
from merge.parameters.linear import AverageParams, TaskArithmeticParams
from merge.parameters.sparse import TiesParams

if TYPE_CHECKING:
    from merge.catalogue import BatchNormPolicy
    from merge.parameters.method_params import MethodParams


def state(mean: float, variance: float, counter: int = 0, prefix: str = "bn.") -> dict[str, Tensor]:
    return {
        f"{prefix}running_mean": torch.tensor([mean], dtype=torch.float32),
        f"{prefix}running_var": torch.tensor([variance], dtype=torch.float32),
        f"{prefix}num_batches_tracked": torch.tensor(counter),
    }


def merged(
    experts: list[dict[str, Tensor]],
    *,
    base: dict[str, Tensor],
    policy: BatchNormPolicy = "average",
    params: MethodParams | None = None,
) -> list[float]:
    params = params or AverageParams()
    return [
        float(each)
        for _, each in merge(base, experts, options=MergeOptions(params=params, batch_norm=policy))
    ]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("average", [2, 6]),
        ("pooled", [2, 10]),
        ("base", [7, 9]),
        ("recalibrate", [2, 6]),
        ("per_task", [2, 6]),
    ],
)
def test_statistics_follow_the_policy(policy: BatchNormPolicy, expected: list[float]) -> None:
    """Means 0 and 4 average to 2, variances 2 and 10 to 6; the means' own variance adds 4."""
    experts = [state(0, 2), state(4, 10)]
    assert merged(experts, base=state(7, 9), policy=policy)[:2] == expected


def test_statistics_follow_the_policy_whatever_the_method() -> None:
    """TIES at scaling 10 would extrapolate a variance below zero, but it gets no statistics."""
    experts = [state(0, 2), state(4, 10)]
    params = TiesParams(density=1, scaling=10)
    assert merged(experts, base=state(7, 20), params=params)[:2] == [2, 6]


def test_statistics_do_not_take_part_in_the_trim() -> None:
    """One of two weights is kept, although statistics moved a thousand times as far."""
    base = {"w": torch.zeros(2), **state(0, 1)}
    expert = {"w": torch.tensor([1.0, 2.0]), **state(1000, 1001)}
    params = TiesParams(density=0.5, scaling=1)
    assert dict(merge(base, [expert], options=MergeOptions(params=params)))["w"].tolist() == [0, 2]


def test_statistics_of_a_bare_layer_are_recognized() -> None:
    """A batch normalization that is the whole model has names without a prefix."""
    bare = [state(0, 2, prefix=""), state(4, 10, prefix="")]
    assert merged(bare, base=state(7, 9, prefix=""), policy="pooled")[:2] == [2, 10]


@pytest.mark.parametrize(
    "name",
    [
        *("running_var", "x.running_var", "x.running_mean", "x.running_std", "running_avg_sq"),
        *("bn.moving_variance", "bn.moving_mean", "vq.ema_cluster_size", "vq._ema_w"),
        *("vq.embed_avg", "mapping.w_avg", "synthesis.magnitude_ema"),
    ],
)
def test_a_moving_average_follows_the_policy_whatever_stands_beside_it(name: str) -> None:
    """Task arithmetic at scaling 10 would give 3 - 10 and 3 + 30, the mean of the experts is 4."""
    base, *experts = ({name: torch.tensor([value, value])} for value in (3.0, 2.0, 6.0))
    params = TaskArithmeticParams(scaling=10)
    for policy, expected in (("average", 4), ("pooled", 4), ("base", 3)):
        options = MergeOptions(params=params, batch_norm=policy)  # type: ignore[arg-type]
        assert dict(merge(base, experts, options=options))[name].tolist() == [expected] * 2


@pytest.mark.parametrize(
    ("mean", "variance"),
    [("moving_mean", "moving_variance"), ("mean", "var"), ("_mean", "_variance")],
)
def test_statistics_of_other_libraries_are_pooled(mean: str, variance: str) -> None:
    """Keras, Flax and Paddle have other names: 6 + the variance of 0 and 4."""
    base, *experts = (
        {f"bn.{mean}": torch.tensor([each]), f"bn.{variance}": torch.tensor([other])}
        for each, other in ((7.0, 9.0), (0.0, 2.0), (4.0, 10.0))
    )
    assert merged(experts, base=base, policy="pooled") == [2, 10]


@pytest.mark.parametrize("name", ["x.mean", "x.std", "x.log_var", "x.noise_var", "x.weight", "var"])
def test_other_names_are_weights(name: str) -> None:
    """A trained mean or log variance belongs to no normalization: 0 + 1 * (3 + 5)."""
    base, *experts = ({name: torch.tensor([value])} for value in (0.0, 3.0, 5.0))
    assert merged(experts, base=base, params=TaskArithmeticParams(scaling=1)) == [8]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_counter_that_was_converted_to_floats_is_a_counter(dtype: torch.dtype) -> None:
    """It takes the maximum, and keeps its type."""
    base, *experts = (
        {"bn.num_batches_tracked": torch.tensor(number, dtype=dtype)} for number in (0, 10, 20)
    )
    params = TaskArithmeticParams(scaling=10)
    counter = dict(merge(base, experts, options=MergeOptions(params=params)))
    assert torch.equal(counter["bn.num_batches_tracked"], torch.tensor(20, dtype=dtype))


def test_counters_take_the_maximum_over_experts() -> None:
    """Experts with 1000 and 2000 steps merge to 2000, as an integer."""
    experts = [state(0, 1, 1000), state(0, 1, 2000)]
    result = dict(merge(state(0, 1, 5000), experts, options=MergeOptions(params=AverageParams())))
    counter = result["bn.num_batches_tracked"]
    assert counter.dtype == torch.int64
    assert int(counter) == 2000


def test_a_negative_variance_is_an_error() -> None:
    """Variances 1 and -5 average to -2, which would normalize to NaN."""
    with pytest.raises(InvalidStatisticsError, match=r"bn\.running_var .* -2; .* in expert 2"):
        merged([state(0, 1), state(0, -5)], base=state(0, 1))


@pytest.mark.parametrize("name", ["running_var", "x.running_var", "x.moving_variance"])
def test_a_negative_variance_without_a_mean_is_an_error(name: str) -> None:
    """The message names the models in which it is negative."""
    base, *experts = ({name: torch.tensor([value])} for value in (1.0, 1.0, -5.0))
    with pytest.raises(InvalidStatisticsError, match="expert 2"):
        merged(experts, base=base, params=TaskArithmeticParams())


def test_a_variance_of_zero_is_a_dead_channel_and_no_error() -> None:
    """Published backbones have such channels, and the layer's eps keeps them finite."""
    assert merged([state(0, 0)], base=state(0, 0))[:2] == [0, 0]


def test_statistics_that_are_not_finite_name_the_expert() -> None:
    """A diverged expert's statistics are refused like its weights."""
    with pytest.raises(NonFiniteInputError, match=r"bn\.running_mean of expert 2"):
        merged([state(0, 1), state(float("nan"), 1)], base=state(0, 1))


def test_pooled_statistics_are_those_of_the_united_images() -> None:
    """For experts that saw equally many images, pooling gives mean and variance of all."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(400, generator=generator) * scale + scale for scale in (1.0, 3.0)]
    experts = [state(float(x.mean()), float(x.var(correction=0))) for x in images]
    united = torch.cat(images)
    mean, variance, _ = merged(experts, base=state(0, 1), policy="pooled")
    assert mean == pytest.approx(float(united.mean()), rel=1e-5)
    assert variance == pytest.approx(float(united.var(correction=0)), rel=1e-5)


def test_a_real_network_with_batch_norm_loads_the_merge() -> None:
    """Names, shapes and dtypes fit the network, which then computes what the merge says."""
    torch.manual_seed(0)
    networks = [nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)) for _ in range(3)]
    base, *experts = (network.state_dict() for network in networks)
    merged = dict(merge(base, experts, options=MergeOptions(params=TiesParams())))
    networks[0].load_state_dict(merged, strict=True)
    images = torch.ones(1, 3, 5, 5)
    expected = functional.batch_norm(
        functional.conv2d(images, merged["0.weight"], merged["0.bias"]),
        *(merged[f"1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")),
    )
    torch.testing.assert_close(networks[0].eval()(images), expected)
