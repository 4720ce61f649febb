import pytest

from orchestrator.run.slots import Slots


@pytest.mark.parametrize(("compete", "num_beside"), [(True, [0, 1, 1]), (False, [0, 2, 4])])
def test_small_cluster_has_merge_workers_beside_its_trials(
    compete: bool,  # noqa: FBT001 a parameter of the test
    num_beside: list[int],
) -> None:
    """Trials get all slots; merge workers that only need idle cores beside GPUs fill them."""
    slots = Slots(most_trials=2, most_jobs=4, compete=compete)
    assert not slots.reserves
    assert [slots.for_trials(num) for num in range(3)] == [0, 1, 2]
    assert [slots.beside_trials(num) for num in range(3)] == num_beside


@pytest.mark.parametrize(
    ("num_slots", "num_trials", "num_beside"),
    [(0, 0, 0), (1, 1, 0), (3, 3, 0), (4, 3, 1), (8, 7, 1), (16, 14, 2), (64, 56, 8)],
)
def test_large_cluster_sets_an_eighth_aside(
    num_slots: int, num_trials: int, num_beside: int
) -> None:
    """A study that has few slots at the time uses all of them for trials."""
    slots = Slots(most_trials=64, most_jobs=64)
    assert slots.reserves
    assert slots.for_trials(num_slots) == num_trials
    assert slots.beside_trials(num_slots) == num_beside
