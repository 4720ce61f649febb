import itertools
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from orchestrator.theory.pairs import Comparison, compare_methods, compare_values, holm
from orchestrator.theory.panel import Array, Panel, panels

MakePanel = Callable[..., Panel]
GROUPS = list(itertools.combinations(range(6), 3))[:15]


def losses_of(effects: Array, *, noise: float, seed: int) -> Array:
    """Returns losses (2, 15, 6): the second setting adds the effect of each task, and noise."""
    rng = np.random.default_rng(seed)
    losses = np.full((2, len(GROUPS), 6), np.nan)
    for group, members in enumerate(GROUPS):
        for task in members:
            losses[:, group, task] = 2.0 + rng.normal(0, 1)
            losses[1, group, task] += effects[task] + rng.normal(0, noise)
    return losses


def loss_pairs(panel: Panel, mean: str = "macro") -> list[Comparison]:
    return [each for each in compare_values(panel, mean=mean) if each.quantity == "loss"]


def test_pairs_find_a_difference_that_the_spread_over_groups_hides(make_panel: MakePanel) -> None:
    """Losses differ by 1 between tasks and by 0.05 between settings, the same in every group."""
    losses = losses_of(np.full(6, 0.05), noise=0.01, seed=0)
    (found,) = loss_pairs(make_panel(losses))
    assert (found.best, found.other) == ("1", "2")
    assert found.difference == pytest.approx(-0.05, abs=0.01)
    assert found.interval.high < 0
    assert (found.num_better, found.num_groups) == (15, 15)
    assert found.p_holm < 1e-4
    assert np.nanstd(make_panel(losses).group_means("loss")[0]) > 0.2


def test_wider_interval_is_named(make_panel: MakePanel) -> None:
    """A difference that varies by task has its wider interval over tasks, as groups share tasks."""
    effects = np.array([0.4, -0.3, 0.2, -0.2, 0.3, 0.1])
    (found,) = loss_pairs(make_panel(losses_of(effects, noise=0.01, seed=0)))
    assert found.interval == found.over_tasks
    assert found.interval.over == "tasks"
    assert found.over_groups.width < found.over_tasks.width


def test_intervals_cover_zero_as_often_as_they_say(make_panel: MakePanel) -> None:
    """With random effects of tasks, intervals over groups alone are too narrow; the wider hold."""
    rng = np.random.default_rng(3)
    found = [
        loss_pairs(make_panel(losses_of(rng.normal(0, 0.2, 6), noise=0.02, seed=draw)))[0]
        for draw in range(300)
    ]
    covered = np.mean([each.interval.low <= 0 <= each.interval.high for each in found])
    by_groups = np.mean([each.over_groups.low <= 0 <= each.over_groups.high for each in found])
    assert covered > 0.92
    assert by_groups < 0.85


def test_methods_are_compared_at_every_setting(make_results: Callable[..., pa.Table]) -> None:
    """The best of three methods is compared with both others; three pairs share the correction."""
    worse = {"average": 0.0, "ties": 0.1, "dare": 0.2}
    level = {"a": 1.0, "b": 1.5, "c": 2.0, "d": 2.5}
    table = make_results(
        {"lr": ("0.1", "1.0")},
        loss=lambda index, _, method, task: level[task] + index + worse[method] * level[task],
        methods=tuple(worse),
    )
    found = [
        each for each in compare_methods(panels(table), mean="macro") if each.quantity == "loss"
    ]
    assert [(each.family, each.best, each.other) for each in found] == [
        (setting, "average", other)
        for setting in ("lr=0.1", "lr=1.0")
        for other in ("ties", "dare")
    ]
    assert {each.num_pairs for each in found} == {3}
    assert all(each.p_holm >= each.p_value for each in found)


def test_groups_that_one_value_lacks_are_in_no_pair(make_panel: MakePanel) -> None:
    """Only groups with a finite loss at every value count."""
    losses = losses_of(np.full(6, 0.05), noise=0.01, seed=0)
    losses[1, 3] = np.where(np.isfinite(losses[1, 3]), np.inf, np.nan)
    (found,) = loss_pairs(make_panel(losses))
    assert found.num_groups == 14


def test_one_group_has_no_interval_over_groups(make_panel: MakePanel) -> None:
    """The interval over tasks is left, and is named."""
    losses = losses_of(np.full(6, 0.05), noise=0.01, seed=0)[:, :1]
    (found,) = loss_pairs(make_panel(losses))
    assert np.isnan(found.over_groups.width)
    assert found.interval.over == "tasks"


def test_union_weighs_tasks_by_their_images(make_panel: MakePanel) -> None:
    """A task with nine times the images has nine times the weight in the difference."""
    losses = np.array([[[1.0, 1.0]], [[2.0, 1.0]]]).repeat(3, axis=1)
    panel = make_panel(losses)
    panel.num_examples[:] = [900, 100]
    (found,) = loss_pairs(panel, mean="union")
    assert found.difference == pytest.approx(-0.9)


def test_holm_against_its_definition() -> None:
    """0.01, 0.04 and 0.03 become 0.03, 0.06 and 0.06: three, one and two are left to test."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_holm_counts_tests_without_a_p_value() -> None:
    """A comparison that has no p-value was made all the same."""
    assert holm([0.01, np.nan])[0] == pytest.approx(0.02)
    assert np.isnan(holm([0.01, np.nan])[1])


@pytest.mark.parametrize("groups", [[(0, task) for task in range(1, 9)], [(0, 1), (0, 2), (0, 3)]])
def test_intervals_hold_where_one_task_is_in_every_group(
    make_panel: MakePanel, groups: list[tuple[int, int]]
) -> None:
    """A task with half of all the weight brings half of the difference, and its own error."""
    rng = np.random.default_rng(5)
    num_covered = 0
    for _ in range(400):
        losses = np.full((2, len(groups), 9), np.nan)
        effects = rng.normal(0, 0.2, 9)
        for group, members in enumerate(groups):
            for task in members:
                losses[:, group, task] = (2.0, 2.0 + effects[task] + rng.normal(0, 0.01))
        (found,) = loss_pairs(make_panel(losses))
        num_covered += found.interval.low <= 0 <= found.interval.high
    assert num_covered > 0.92 * 400


def test_equal_weights_give_the_usual_interval_of_student(make_panel: MakePanel) -> None:
    """Every task in one group: the interval of scipy over the tasks' differences."""
    differences = np.array([0.1, 0.4, -0.1, 0.3])
    losses = np.array([[2.0 + differences], [np.full(4, 2.0)]])
    (found,) = loss_pairs(make_panel(losses))
    test = stats.ttest_1samp(-differences, 0)
    known = test.confidence_interval(0.95)
    assert (found.interval.low, found.interval.high) == pytest.approx((known.low, known.high))
    assert found.p_value == pytest.approx(test.pvalue)


def test_a_member_without_a_number_hides_no_other_pair(make_panel: MakePanel) -> None:
    """A value at which no merge has a finite loss is left out; the others are compared."""
    losses = losses_of(np.full(6, 0.05), noise=0.01, seed=0)
    (alone,) = loss_pairs(make_panel(losses))
    failed = np.where(np.isfinite(losses[:1]), np.inf, np.nan)
    (found,) = loss_pairs(make_panel(np.concatenate([losses, failed])))
    assert (found.best, found.other, found.num_pairs) == ("1", "2", 1)
    assert found == alone
