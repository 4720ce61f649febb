import math
from collections.abc import Callable

import pytest

from orchestrator.advice.advice import MethodAdvice, advised_points
from orchestrator.advice.cost import Costs
from orchestrator.advice.words import record_sentences
from orchestrator.plan.plan import Plan
from workers.specs.hyperparameters import Hyperparameters

Advise = Callable[..., MethodAdvice]
LR = [0.00003, 0.0001, 0.0003, 0.001, 0.003]
STEPS = [10, 20, 40, 80, 160]


def bowl_and_tail(point: Hyperparameters) -> float:
    """Least at a learning rate of 1.7e-4, between two that are tried; falls with steps."""
    return 1.5 + 0.15 * math.log(point.lr / 1.7e-4) ** 2 + 20 / (point.steps + 20)


@pytest.mark.parametrize("design", ["one-factor", "grid"])
def test_the_first_candidate_is_the_true_best_within_its_interval(
    make_varied: Callable[..., Plan], advise_on: Advise, design: str
) -> None:
    """Its true loss is in its interval and below that of the best setting tried."""
    plan = make_varied({"lr": LR, "steps": STEPS}, finetune={"design": design})
    ranking = advise_on(plan, bowl_and_tail, noise=0.05).ranking
    assert ranking is not None
    first = ranking.candidates[0]
    level = ranking.best_loss - bowl_and_tail(ranking.best_point)
    true_loss = bowl_and_tail(first.point) + level
    assert first.low < true_loss < first.high
    assert bowl_and_tail(first.point) < bowl_and_tail(ranking.best_point)
    assert first.point.steps == 320
    assert first.is_beyond


def test_pairs_that_a_study_of_single_axes_cannot_know_are_not_advised(
    make_varied: Callable[..., Plan], advise_on: Advise
) -> None:
    """Where the best learning rate falls with the steps, additive predictions of pairs fail."""

    def ridge(point: Hyperparameters) -> float:
        turn = math.log(point.lr * point.steps**0.5 / (1.5e-4 * 80**0.5))
        return 1.6 + 0.12 * turn**2 + 3 / math.sqrt(point.steps + 10)

    ranking = advise_on(make_varied({"lr": LR, "steps": STEPS}), ridge, noise=0.05).ranking
    assert ranking is not None
    level = ranking.best_loss - ridge(ranking.best_point)
    for each in ranking.candidates:
        assert each.point.lr == 0.0003 or each.point.steps == 40
        assert each.low < ridge(each.point) + level < each.high


def test_pure_noise_is_refused(make_varied: Callable[..., Plan], advise_on: Advise) -> None:
    """Nothing is ranked where the loss does not depend on the hyperparameters."""
    plan = make_varied({"lr": LR, "steps": STEPS})
    ranked = [
        seed
        for seed in range(5)
        if advise_on(plan, lambda _: 2.0, noise=0.1, seed=seed).ranking is not None
    ]
    assert not ranked


def test_the_advised_points_hold_the_best_setting_and_the_first_candidate(
    make_varied: Callable[..., Plan], advise_on: Advise
) -> None:
    """They are written once each, with the experiment that says most and its snapshots."""
    plan = make_varied({"lr": LR, "steps": STEPS})
    advice = advise_on(plan, bowl_and_tail)
    ranking = advice.ranking
    assert ranking is not None
    experiment = ranking.experiment
    assert experiment is not None
    assert experiment.gain > 0
    points = advised_points([advice, advice])
    expected = [ranking.best_point, ranking.candidates[0].point, experiment.candidate.point]
    assert all(point in points for point in expected)
    assert {each.point for each in experiment.snapshots} <= set(points)
    assert len(points) == len(set(points))


def test_snapshots_share_the_training_only_if_no_step_depends_on_the_total(
    make_varied: Callable[..., Plan], advise_on: Advise
) -> None:
    """Under a cosine schedule every number of steps needs a training of its own."""
    values = {"lr": [0.0003], "steps": [100, 200, 300]}
    for schedule, num_snapshots in (("constant", 2), ("cosine", 0)):
        plan = make_varied({"lr": LR, "steps": STEPS}, finetune={"schedule": schedule})
        costs = Costs(new_steps=lambda _: 100, merge_steps=0.0)
        advice = advise_on(plan, bowl_and_tail, values=values, costs=costs)
        assert advice.ranking is not None
        experiment = advice.ranking.experiment
        assert experiment is not None
        assert experiment.candidate.point.steps == 300
        assert len(experiment.snapshots) == num_snapshots


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({}, "no two settings can be compared"),
        ({"lr": LR[:3]}, "only 3 settings can be compared"),
        ({"augment": ["none", "flip", "crop_flip"]}, "no two settings can be compared"),
    ],
)
def test_too_few_settings_are_named(
    make_varied: Callable[..., Plan],
    advise_on: Advise,
    axes: dict[str, list[object]],
    said: str,
) -> None:
    """The sentence says how many there are and how many are needed."""
    advice = advise_on(make_varied(axes), bowl_and_tail)
    assert advice.record is None
    assert advice.missing.startswith(said)
    assert "needs 4" in advice.missing


def test_a_random_design_has_no_setting_to_compare(
    make_varied: Callable[..., Plan], advise_on: Advise
) -> None:
    """Its experts differ within each setting, which the advice says."""
    plan = make_varied({"lr": LR}, finetune={"design": "random", "draws": 6})
    advice = advise_on(plan, bowl_and_tail)
    assert advice.missing.startswith("no two settings")
    assert "random=0" in advice.left_out[0]
    assert "their experts differ within a setting" in advice.left_out[0]


def test_candidates_that_were_all_tried_are_said(
    make_varied: Callable[..., Plan], advise_on: Advise
) -> None:
    """There is a record then, and nothing to rank."""
    plan = make_varied({"lr": LR, "steps": STEPS})
    advice = advise_on(plan, bowl_and_tail, values={"lr": [LR[0], LR[1]]})
    assert advice.record is not None
    assert advice.ranking is None or all(
        each.point.lr in LR[:2] for each in advice.ranking.candidates
    )


def test_a_ranking_from_one_group_says_how_little_it_rests_on(
    make_varied: Callable[..., Plan], advise_on: Advise
) -> None:
    """There is no interval over groups, so that noise passes the test more often."""
    for groups, num_said in (({"size": 6, "count": 1}, 1), ({"size": 2}, 0)):
        plan = make_varied({"lr": LR, "steps": STEPS}, groups=groups)
        record = advise_on(plan, bowl_and_tail).record
        assert record is not None
        assert record.is_supported
        said = " ".join(record_sentences(record))
        assert said.count("One group gives no interval over groups") == num_said
        assert said.count(", 1 group)") == num_said
