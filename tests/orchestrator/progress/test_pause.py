import pytest
from manual_clock import ManualClock

from orchestrator.progress.pause import VIEW_FRAC, Paced, pause_s


@pytest.mark.parametrize(("took_s", "expected_s"), [(0.0, 5.0), (0.1, 5.0), (1.0, 49.0)])
def test_pause_keeps_a_computation_to_a_part_of_the_time(took_s: float, expected_s: float) -> None:
    """A fast one waits for the least pause; a slow one waits so long that 2 % are left to it."""
    pause = pause_s(took_s, least_s=5.0)
    assert pause == pytest.approx(expected_s)
    assert took_s / (took_s + pause) <= VIEW_FRAC * 1.001


def test_another_part_can_be_asked_for() -> None:
    """Half of the time."""
    assert pause_s(3.0, least_s=1.0, max_frac=0.5) == pytest.approx(3.0)


def test_number_is_counted_again_when_its_count_has_cost_little_enough() -> None:
    """A count of 1 s is repeated after 49 s: 2 % of the time."""
    clock = ManualClock()
    counted = []

    def count() -> int:
        clock.now_s += 1
        counted.append(clock.now_s)
        return len(counted)

    number = Paced(count, clock=clock)
    assert [number(), number()] == [1, 1]
    clock.now_s += 48
    assert number() == 1
    clock.now_s += 1
    assert number() == 2
