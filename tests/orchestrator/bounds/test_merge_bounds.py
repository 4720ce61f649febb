import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from measured_tasks import measured_tasks

from eval.theory.labels import Reason, Word
from orchestrator.bounds.merge_bounds import MergeBounds, bounds_of
from orchestrator.bounds.merge_setting import coefficients_of, merge_setting_of
from orchestrator.bounds.statements import bounds_by_row, statement_lines
from orchestrator.plan.plan import Plan
from orchestrator.record.task_constants import MeasuredTasks

TASK = "mnist_5k"
SGD = {"name": "sgd", "momentum": 0.0}
SHORT = {"steps": 2, "lr": 0.001, "batch_size": 8}
SMOOTH = {"optimizer": SGD, "defaults": SHORT, "head": "frozen", "freeze_batch_norm": True}


def bounds_by_method(plan: Plan, *, measured: MeasuredTasks) -> Mapping[str, MergeBounds]:
    """Returns the bounds of the first merge of each method that has coefficients."""
    found: dict[str, MergeBounds] = {}
    for merge in plan.merges.values():
        setting = merge_setting_of(merge, plan=plan)
        if setting is not None:
            found.setdefault(merge.method, bounds_of(merge, setting, measured=measured))
    return found


def test_short_training_of_a_smooth_model_is_bounded(make_plan: Callable[..., Plan]) -> None:
    """SGD with a frozen head and frozen BatchNorm, two steps of 0.001 at a curvature of 2."""
    plan = make_plan(finetune=SMOOTH, merge=[{"method": "average"}])
    bounds = bounds_by_method(plan, measured=measured_tasks(plan))["average"]
    assert bounds.stability.word is Word.BOUND
    assert bounds.stated_stability.word is Word.SCORE
    assert bounds.effective_length == pytest.approx(0.002)
    assert bounds.reach.worst == pytest.approx(0.004)
    assert (bounds.chi_square, sum(bounds.weights)) == pytest.approx((0, 1), abs=1e-12)
    # By hand: two experts, eps_i of the smooth form at L1 = 4, n of the study's images.
    merge = next(iter(plan.merges.values()))
    setting = merge_setting_of(merge, plan=plan)
    assert setting is not None
    first, second = 1 + 1.004, 1 + 1.004**2
    eps = [2 * 1e-6 * 3 * ((1 - 8 / n) * second / (8 * n) + first**2 / n**2) for n in setting.n]
    assert bounds.stability.value == pytest.approx(sum(eps) / 8)
    terms = math.fsum(bounds.risk.terms.values())
    assert bounds.excess.value == pytest.approx(2 + terms)


def test_a_score_rises_with_the_rate_across_the_range(make_plan: Callable[..., Plan]) -> None:
    """A growth factor inside the range alone would give the least rate the largest number."""
    rates = [0.001, 0.01, 10.0]
    finetune = {**SMOOTH, "defaults": {**SHORT, "steps": 200}, "axes": {"lr": rates}}
    plan = make_plan(finetune=finetune, merge=[{"method": "average"}])
    measured = measured_tasks(plan, has_kinks=True)
    reaches, values = [], []
    for cell in (each for each in plan.cells if each.group == plan.groups[0]):
        setting = merge_setting_of(cell.merge, plan=plan)
        assert setting is not None
        bounds = bounds_of(cell.merge, setting, measured=measured)
        reaches.append(bounds.reach.is_inside)
        values.append(bounds.stability.value / cell.setting.points[TASK].lr ** 2)
    assert set(reaches) == {True, False}
    assert values == pytest.approx([values[0]] * len(rates))


def test_dare_raises_stability_and_nothing_else(make_plan: Callable[..., Plan]) -> None:
    """By 1 / density, at the coefficients of task arithmetic."""
    methods = [
        {"method": "task_arithmetic", "scaling": 0.4},
        {"method": "dare", "scaling": 0.4, "density": 0.25},
    ]
    plan = make_plan(finetune=SMOOTH, merge=methods)
    bounds = bounds_by_method(plan, measured=measured_tasks(plan))
    dare, plain = bounds["dare"], bounds["task_arithmetic"]
    assert dare.stability.value == pytest.approx(4 * plain.stability.value)
    assert dare.training_loss.value == plain.training_loss.value
    assert Reason.SCALED in dare.stability.reasons


def test_methods_without_coefficients_have_no_setting(make_plan: Callable[..., Plan]) -> None:
    """TIES elects, and DARE without rescaling shrinks; weights are normalized by their sum."""
    methods = [
        {"method": "ties"},
        {"method": "dare", "rescale": False},
        {"method": "weighted_average", "weights": [3, 1]},
    ]
    plan = make_plan(finetune=SMOOTH, merge=methods)
    found = {merge.method: coefficients_of(merge) for merge in plan.merges.values()}
    assert found == {"ties": None, "dare": None, "weighted_average": (0.75, 0.25)}
    ties = next(merge for merge in plan.merges.values() if merge.method == "ties")
    assert merge_setting_of(ties, plan=plan) is None


@pytest.mark.parametrize("scaling", [-0.5, 0.0])
def test_coefficients_that_give_no_weights_have_no_setting(
    make_plan: Callable[..., Plan], scaling: float
) -> None:
    """The proofs need weights; the study's other methods keep their statements."""
    methods = [{"method": "task_arithmetic", "scaling": scaling}, {"method": "average"}]
    plan = make_plan(finetune=SMOOTH, merge=methods)
    assert set(bounds_by_method(plan, measured=measured_tasks(plan))) == {"average"}


def test_every_departure_from_the_proofs_is_said(make_plan: Callable[..., Plan]) -> None:
    """Adam, a trained head, BatchNorm in training mode, kinks, no curvature: five reasons."""
    plan = make_plan(
        finetune={
            "optimizer": {"name": "adam"},
            "defaults": SHORT,
            "freeze_batch_norm": False,
        },
        merge=[{"method": "average"}],
    )
    measured = measured_tasks(plan, curvature=None, has_kinks=True)
    bounds = bounds_by_method(plan, measured=measured)["average"]
    assert set(bounds.stability.reasons) == {
        Reason.KINKS,
        Reason.BATCH_COUPLED,
        Reason.HEAD_MOVES,
        Reason.PRECONDITIONED,
        Reason.CURVATURE_NOT_MEASURED,
    }
    assert bounds.stability.word is Word.SCORE
    assert bounds.stability.value > 0
    assert math.isnan(bounds.training_loss.value)
    assert "reach not measured" in str(bounds.training_loss)


def test_unequal_steps_tilt_the_weights(make_plan: Callable[..., Plan]) -> None:
    """A random design draws a point for each task; chi-square says how far it tilts."""
    finetune = {
        **SMOOTH,
        "design": "random",
        "axes": {"steps": [2, 20], "lr": [0.001, 0.01]},
    }
    plan = make_plan(finetune=finetune, merge=[{"method": "average"}])
    for merge in plan.merges.values():
        setting = merge_setting_of(merge, plan=plan)
        assert setting is not None
        lengths = setting.eta * setting.totals
        bounds = bounds_of(merge, setting, measured=measured_tasks(plan))
        assert bounds.weights == pytest.approx(lengths / lengths.sum())
        assert (bounds.chi_square < 1e-9) == bool(np.ptp(lengths) < 1e-9)


def test_statements_name_the_weakest_word_and_every_reason(make_plan: Callable[..., Plan]) -> None:
    """Inside the range the proved form is a bound; with kinks it is a score, and says why."""
    plan = make_plan(finetune=SMOOTH, merge=[{"method": "average"}, {"method": "ties"}])
    spec = next(iter(plan.experts.values()))
    where = {
        "base_id": spec.base_id,
        "augment": spec.hyperparameters.augment,
        "diverged": (),
    }
    rows = bounds_by_row(plan, measured=measured_tasks(plan), **where)
    assert [len(merges) for merges in rows.values()] == [len(plan.groups)]
    (smooth,) = statement_lines(rows)
    assert "(proved form: bound, reach 0.004)" in smooth
    assert "(stated form: never a bound)" in smooth
    assert "training loss" in smooth
    rows = bounds_by_row(plan, measured=measured_tasks(plan, has_kinks=True), **where)
    line, reason = statement_lines(rows)
    assert "(proved form: score, not a bound, reach 0.004)" in line
    assert reason == Reason.KINKS
    rows = bounds_by_row(plan, measured=measured_tasks(plan), **{**where, "diverged": {spec.id}})
    line, reason = statement_lines(rows)
    assert "(proved form: score, not a bound, reach 0.004)" in line
    assert reason == Reason.DIVERGED
    other = {**where, "base_id": "another"}
    assert not bounds_by_row(plan, measured=measured_tasks(plan), **other)


def test_settings_with_the_same_merges_have_one_row(make_plan: Callable[..., Plan]) -> None:
    """The default values of both axes make the same experts; the row names both."""
    axes = {"lr": [SHORT["lr"], 0.01], "steps": [SHORT["steps"], 4]}
    plan = make_plan(finetune={**SMOOTH, "axes": axes}, merge=[{"method": "average"}])
    spec = next(iter(plan.experts.values()))
    where = {
        "base_id": spec.base_id,
        "augment": spec.hyperparameters.augment,
        "diverged": (),
    }
    rows = bounds_by_row(plan, measured=measured_tasks(plan), **where)
    assert list(rows) == [
        "lr=0.001 (the same as steps=2), average",
        "lr=0.01, average",
        "steps=4, average",
    ]
