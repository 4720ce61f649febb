import pytest

from orchestrator.progress.pause import VIEW_FRAC, pause_s


@pytest.mark.parametrize(("took_s", "expected_s"), [(0.0, 5.0), (0.1, 5.0), (1.0, 49.0)])
def test_pause_keeps_a_computation_to_a_part_of_the_time(took_s: float, expected_s: float) -> None:
    """A fast one waits for the least pause; a slow one waits so long that 2 % are left to it."""
    pause = pause_s(took_s, least_s=5.0)
    assert pause == pytest.approx(expected_s)
    assert took_s / (took_s + pause) <= VIEW_FRAC * 1.001


def test_another_part_can_be_asked_for() -> None:
    """Half of the time."""
    assert pause_s(3.0, least_s=1.0, max_frac=0.5) == pytest.approx(3.0)
