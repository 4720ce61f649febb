from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from merge.alignment.aligned import align
from merge.buffers import is_statistic
from merge.catalogue import AverageParams
from merge.errors import MismatchError
from merge.merge import MergeOptions, merge

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from merge.weight import State

    Make = Callable[..., nn.Module]
    Shuffle = Callable[[State, int], State]
    Noise = Callable[..., dict[str, Tensor]]


def is_same(state: State, expected: State) -> bool:
    return list(state) == list(expected) and all(
        torch.equal(state[name], expected[name]) for name in expected
    )


def distance(state: State, reference: State) -> float:
    weights = [name for name in state if not is_statistic(name, state=state)]
    differences = [state[name].double() - reference[name].double() for name in weights]
    return float(sum(difference.square().sum() for difference in differences))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_shuffled_network_comes_back_bit_for_bit(
    network: nn.Module, shuffled: Shuffle, seed: int
) -> None:
    """Weights, statistics and counters of all kinds of networks return to their places."""
    state = network.state_dict()
    moved = shuffled(state, seed)
    assert not is_same(moved, state)
    assert is_same(align(state, moved, seed=seed), state)


def test_a_shuffled_resnet18_comes_back_bit_for_bit(make: Make, shuffled: Shuffle) -> None:
    """The same holds at full width: 11 million weights in 12 groups."""
    state = make(model_name="resnet18").state_dict()
    assert is_same(align(state, shuffled(state, 0), seed=0), state)


def test_a_shuffled_and_trained_network_comes_back_in_order(
    network: nn.Module, shuffled: Shuffle, noisy: Noise
) -> None:
    """Noise of a tenth of the weights' deviation does not hide which channel is which."""
    state = network.state_dict()
    trained = noisy(state, noise_frac=0.1)
    assert is_same(align(state, shuffled(trained, 0), seed=0), trained)


def test_experts_of_one_base_are_left_alone(network: nn.Module, noisy: Noise) -> None:
    """Fine-tuning exchanges no channels, so the expert itself is returned."""
    base = network.state_dict()
    expert = noisy(base, noise_frac=0.05)
    assert align(base, expert, seed=0) is expert


def test_untrained_twins_are_left_alone(make: Make) -> None:
    """If all channels are equal every order is as good, and the present one stays."""
    network = make(model_name="resnet18", channels=(64, 8, 8, 8))
    state = {name: torch.ones_like(tensor) for name, tensor in network.state_dict().items()}
    other = dict(state)
    assert align(state, other, seed=0) is other


def test_strangers_come_closer(strangers: tuple[State, State]) -> None:
    """Unrelated networks are nearer after alignment than before."""
    reference, other = strangers
    assert distance(align(reference, other, seed=0), reference) < distance(other, reference)


def test_a_seed_gives_one_result_and_another_seed_another(make: Make) -> None:
    """The order in which groups are visited decides where the descent ends."""
    networks = [make(model_name="resnet18", channels=(64, 8, 8, 8), seed=seed) for seed in (0, 1)]
    reference, other = (network.state_dict() for network in networks)
    first, again, different = (align(reference, other, seed=seed) for seed in (0, 0, 1))
    assert is_same(again, first)
    assert not is_same(different, first)


def test_half_precision_comes_back_as_it_was_stored(make: Make) -> None:
    """Matching reads float32, but the view returns the stored dtype."""
    networks = [make(model_name="resnet18", channels=(64, 8, 8, 8), seed=seed) for seed in (0, 1)]
    reference, other = (network.half().state_dict() for network in networks)
    aligned = align(reference, other, seed=0)
    assert aligned is not other
    assert {name: tensor.dtype for name, tensor in aligned.items()} == {
        name: tensor.dtype for name, tensor in other.items()
    }


def test_an_aligned_state_merges(make: Make, shuffled: Shuffle) -> None:
    """The average of a network with its aligned shuffled copy is the network itself."""
    state = make(model_name="resnet18", channels=(64, 8, 8, 8)).state_dict()
    aligned = align(state, shuffled(state, 0), seed=0)
    merged = dict(merge(state, [state, aligned], options=MergeOptions(params=AverageParams())))
    assert is_same(merged, state)


def test_tensors_are_permuted_when_they_are_read(make: Make, shuffled: Shuffle) -> None:
    """The view keeps no permuted tensor."""
    state = make(model_name="resnet18", channels=(64, 8, 8, 8)).state_dict()
    aligned = align(state, shuffled(state, 0), seed=0)
    assert aligned["conv1.weight"] is not aligned["conv1.weight"]


def test_models_of_two_architectures_do_not_match(make: Make) -> None:
    """The error names the first difference before any matching."""
    wide, narrow = (
        make(model_name="resnet18", channels=(64, 8, 8, last)).state_dict() for last in (8, 16)
    )
    with pytest.raises(MismatchError, match=r"layer4\.0\.conv1\.weight is"):
        align(wide, narrow, seed=0)
