import math
from dataclasses import replace

import numpy as np
import pytest
import quadratic_tasks as quadratic

from eval.theory.accumulation import sgd
from eval.theory.excess_risk import excess_risk, stated_excess_risk, stated_excess_risk_by_parts
from eval.theory.generalisation import (
    generalisation_gap,
    mean_squared_gradient,
    smooth_squared_gradient,
    stated_generalisation_gap,
)
from eval.theory.labels import Form, Labelled, Word, reasons_of
from eval.theory.settings import MergeSetting, TaskConstants
from eval.theory.stability import convex_growth, expert_stability, merge_stability
from eval.theory.training_loss import (
    descent_under_pl,
    gradient_bound,
    optimal_length,
    reach_of,
    stated_gradient_norm,
    stated_transfer,
    training_loss,
)


def test_stated_gap_is_violated_by_the_minimiser_of_mean_estimation() -> None:
    """N = 100, sigma2 = 1: the gap is .01, the stated form 1e-4, the proved one .01417."""
    n = 100
    gap, stability = 1 / n, 2 / n**2
    stated = stated_generalisation_gap(
        mixture_squared_gradient=0.0, stability=stability, smoothness=1
    )
    squared = mean_squared_gradient(
        mixture_squared_gradient=0.0, heterogeneity=0.0, mean_noise=1 - 1 / n
    )
    proved = generalisation_gap(
        mean_squared_gradient=squared, stability=stability, example_smoothness=1
    )
    assert stated == pytest.approx(1e-4)
    assert proved == pytest.approx(0.01417, abs=5e-6)
    assert stated < gap < proved
    # The training loss at the minimiser is (1 - 1/n) / 2, so Lei and Ying's form is equal here.
    assert smooth_squared_gradient((1 - 1 / n) / 2, example_smoothness=1) == pytest.approx(squared)


def quadratic_stability(*, steps: int = 20, batch_size: int = 50, lr: float = 0.025) -> float:
    """Returns the proved stability of the average of the quadratic tasks."""
    experts = [
        expert_stability(
            convex_growth(steps, lr=lr, smoothness=1),
            lr=lr,
            noise=noise,
            batch_size=batch_size,
            num_examples=50,
        )
        for noise in quadratic.NOISE
    ]
    return merge_stability(experts, weights=quadratic.EQUAL, coefficients=quadratic.EQUAL)


def test_gap_of_the_quadratic_tasks_is_below_the_proved_form() -> None:
    """The exact gap at full batch, 20 steps, is .01027906."""
    phi = 1 - (1 - 0.025 * quadratic.CURVATURES) ** 20
    exact = np.mean(quadratic.SPREADS**2) * np.sum(quadratic.CURVATURES * phi) / 50 / 4
    assert exact == pytest.approx(0.01027906, rel=1e-6)
    risk = excess_risk(
        quadratic.setting(batch_size=50),
        quadratic.constants(),
        training=training_loss(quadratic.setting(batch_size=50), quadratic.constants()),
        stability=quadratic_stability(),
    )
    assert exact < risk.generalisation < 3 * exact


def exact_test_loss(*, steps: int, lr: float) -> float:
    """Returns the expected test loss of the average of full-batch experts on the population."""
    kept = (1 - lr * quadratic.CURVATURES) ** steps
    mean = kept * quadratic.START + (1 - kept) * quadratic.CENTRES.mean(axis=0)
    variance = np.sum(quadratic.SPREADS**2) / 16 / 50 * (1 - kept) ** 2
    away = 0.5 * np.sum(quadratic.CURVATURES * (mean**2 + variance))
    return float(away + quadratic.LEAST_LOSS)


@pytest.mark.parametrize("steps", [1, 5, 10, 20])
def test_proved_test_loss_is_never_below_the_exact_one(steps: int) -> None:
    """Inside the range it is a bound."""
    setting, constants = quadratic.setting(steps=steps, batch_size=50), quadratic.constants()
    training = training_loss(setting, constants)
    risk = excess_risk(
        setting, constants, training=training, stability=quadratic_stability(steps=steps)
    )
    assert reach_of(setting, constants).word is Word.BOUND
    assert exact_test_loss(steps=steps, lr=0.025) <= risk.test_loss
    assert risk.excess == pytest.approx(risk.test_loss - quadratic.LEAST_LOSS)
    assert risk.test_loss == pytest.approx(
        quadratic.LOSSES.mean() + math.fsum(risk.terms.values()), rel=1e-12
    )


def test_terms_add_up_to_the_loss() -> None:
    """T - F_S(x0) = descent + interference + noise; the drift is that of plain SGD, by hand."""
    setting, constants = quadratic.setting(), quadratic.constants()
    training = training_loss(setting, constants)
    difference = training.descent + training.interference + training.noise
    assert training.total - training.base_loss == pytest.approx(difference, abs=1e-14)
    assert training.descent == pytest.approx(-0.5 / 2 * 2.074282, abs=1e-6)
    drift = 0.025**2 * np.mean(
        2 * 19 * quadratic.NOISE / 5 + 8 / 3 * 20 * 19 * np.diag(constants.gram)
    )
    assert training.interference == pytest.approx(0.5 / 2 * drift)
    assert training.noise == pytest.approx(np.sum(0.025**2 * 20 / 16 * quadratic.NOISE / 5))


def test_momentum_takes_the_general_drift() -> None:
    """4 (|a|^2 - a_last^2) sigma2 / b + 8 (A - a_last)^2 G2, by hand at K = 2."""
    constants = quadratic.constants()
    setting = quadratic.setting(accumulation=sgd([1.0, 1.0], momentum=0.9), batch_size=5)
    training = training_loss(setting, constants)
    drift = 0.025**2 * np.mean(
        4 * 1.9**2 * quadratic.NOISE / 5 + 8 * 1.9**2 * np.diag(constants.gram)
    )
    assert training.interference == pytest.approx(0.025 * 2.9 / 2 * drift)
    assert not setting.is_plain_sgd


def test_no_step_leaves_the_base_in_all_but_its_weights() -> None:
    """One step has no drift, and equal settings no bias."""
    assert training_loss(quadratic.setting(steps=1), quadratic.constants()).interference < 1e-15


@pytest.mark.parametrize(("momentum", "factor"), [(0.0, 8), (0.5, 24)])
def test_optimal_length_is_the_least_of_a_grid(momentum: float, factor: int) -> None:
    """Without noise, K = 1000; .27300 for plain SGD."""
    constants = quadratic.constants(noise=0.0)
    accumulation = sgd([1.0] * 1000, momentum=momentum)
    lengths = np.linspace(0.05, 0.5, 451)
    totals = [
        training_loss(
            quadratic.setting(lr=length / accumulation.total, accumulation=accumulation), constants
        ).total
        for length in lengths
    ]
    best = optimal_length(quadratic.setting(accumulation=accumulation), constants)
    assert lengths[int(np.argmin(totals))] == pytest.approx(best, abs=0.002)
    assert best == pytest.approx(0.27300 * math.sqrt(8 / factor), abs=1e-5)


def test_noise_above_the_gain_leaves_no_length_to_train() -> None:
    """g2 < 2 L lr sigma2 / (b N)."""
    noisy = quadratic.constants(noise=1000)
    assert optimal_length(quadratic.setting(), noisy) == 0
    quiet = optimal_length(quadratic.setting(), quadratic.constants(noise=0))
    assert optimal_length(quadratic.setting(), quadratic.constants()) < quiet


def test_training_loss_moves_as_the_table_says() -> None:
    """Down in b, up in noise and curvature, U in K, lr and scale; n is not in it."""
    constants = quadratic.constants()

    def loss(**changed: float) -> float:
        return training_loss(quadratic.setting(**changed), constants).total

    start = loss(steps=5)
    assert loss(steps=5, batch_size=6) < start
    assert loss(steps=5, num_examples=100) == start
    turns = {"steps": (1, 12, 90), "lr": (1e-3, 0.012, 0.15)}
    values = [[loss(**{name: each}) for each in tried] for name, tried in turns.items()]
    values.append([loss(steps=5, scale=scale) for scale in (0.1, 50, 500)])
    for below, middle, above in values:
        assert middle < below
        assert middle < above
    setting = quadratic.setting(steps=5)
    assert training_loss(setting, quadratic.constants(noise=1.1)).total > start
    assert training_loss(setting, quadratic.constants(smoothness=1.1)).total > start


def test_descent_under_pl_and_gradient_bound() -> None:
    """PL bounds base loss and descent together; the gradient bound is 2 L (T - F*)."""
    setting, constants = quadratic.setting(), quadratic.constants()
    training = training_loss(setting, constants)
    bound = descent_under_pl(training, length=0.5, pl=0.1, least_loss=quadratic.LEAST_LOSS)
    assert training.base_loss + training.descent <= bound
    assert gradient_bound(training, constants) == pytest.approx(
        2 * (training.total - quadratic.LEAST_LOSS)
    )


def test_stated_gradient_norm_is_far_above_the_gradient_at_the_base() -> None:
    """Its first term alone, 4 D0 / H, is above 8 L D0 >= |grad F(x0)|^2 inside the range."""
    setting, constants = quadratic.setting(), quadratic.constants()
    stated = stated_gradient_norm(setting, constants)
    first = 4 * (quadratic.LOSSES.mean() - quadratic.LEAST_LOSS) / 0.5
    assert stated > first > 2.074282
    # By hand, all settings equal: A = K = 20, |a|^2 = 20, the last entry 1.
    per_step = quadratic.NOISE / 5
    second = 4 * 0.5 * np.sum(per_step / 16) * 20 / 400
    third = 6 * 0.025**2 * np.mean(per_step) * 19
    fourth = 12 * 0.025**2 * 1.404519 * 20 * 19
    assert stated == pytest.approx(first + second + third + fourth, rel=1e-6)
    assert stated_transfer(stated, chi_square=0.5, heterogeneity=2) == pytest.approx(2 * stated + 2)


def test_stated_excess_risk_by_hand() -> None:
    """E_grad = 4, eps = .25, L = 2, mu = .5, c = 2: 1 + .25 + 4; the upper end .375 + 6."""
    values = {"squared_gradient": 4, "stability": 0.25, "smoothness": 2, "pl": 0.5}
    assert stated_excess_risk(**values) == pytest.approx(5.25)
    assert stated_excess_risk_by_parts(**values) == pytest.approx(6.375)
    assert stated_excess_risk(**values, factor=1) == pytest.approx(9.25)


def test_setting_with_a_missing_value_is_refused() -> None:
    """Every field has one value a task, and weights sum to 1."""
    values = {"coefficients": [1, 1], "lr": [1, 1], "batch_sizes": [1, 1], "num_examples": [1, 1]}
    two = (sgd([1.0]),) * 2
    with pytest.raises(ValueError, match=r"sum to 1\.5"):
        MergeSetting(weights=[1, 0.5], accumulations=two, **values)
    with pytest.raises(ValueError, match="eta has the shape"):
        MergeSetting(weights=[0.5, 0.5], accumulations=two, **{**values, "lr": [1]})


def test_heterogeneity_raises_the_training_loss_through_the_drift() -> None:
    """With the same mean gradient, gradients further apart are longer."""
    constants, setting = quadratic.constants(), quadratic.setting()
    mean = quadratic.GRADIENTS.mean(axis=0)
    further = mean + 1.1 * (quadratic.GRADIENTS - mean)
    apart = replace(constants, gram=further @ further.T)
    before, after = training_loss(setting, constants), training_loss(setting, apart)
    assert after.descent == pytest.approx(before.descent)
    assert after.total > before.total


def run_quadratic(
    rng: np.random.Generator, *, setting: MergeSetting, hessians: np.ndarray, momentum: float
) -> np.ndarray:
    """Returns merges, (60, 20), of experts that are trained on noisy quadratics with momentum."""
    merges = np.tile(quadratic.START, (60, 1))
    for task, hessian in enumerate(hessians):
        weights, velocity = np.tile(quadratic.START, (60, 1)), np.zeros((60, 20))
        noise = math.sqrt(quadratic.NOISE[task] / setting.b[task] / 20)
        for _ in setting.accumulations[task].entries:
            gradient = (weights - quadratic.CENTRES[task]) @ hessian
            velocity = momentum * velocity + gradient + noise * rng.standard_normal((60, 20))
            weights = weights - setting.eta[task] * velocity
        merges += setting.alpha[task] * (weights - quadratic.START)
    return merges


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_proved_training_loss_holds_for_unequal_settings(momentum: float) -> None:
    """Different Hessians, steps, rates, batches, weights and coefficients; simulated, in range."""
    rng = np.random.default_rng(1)
    for _ in range(15):
        rotations = np.linalg.qr(rng.standard_normal((4, 20, 20)))[0]
        hessians = (rotations * np.exp(rng.uniform(-3, 0, (4, 1, 20)))) @ np.swapaxes(
            rotations, 1, 2
        )
        weights, steps = rng.dirichlet(np.full(4, 5)), rng.integers(1, 12, 4)
        accumulations = tuple(sgd([1.0] * int(each), momentum=momentum) for each in steps)
        smoothness = np.linalg.eigvalsh(hessians)[:, -1]
        totals = np.array([each.total for each in accumulations])
        setting = MergeSetting(
            weights=weights,
            coefficients=rng.dirichlet(np.full(4, 5)),
            lr=rng.uniform(0.05, 0.3, 4) / (smoothness * totals),
            batch_sizes=rng.integers(1, 8, 4),
            num_examples=np.full(4, 50),
            accumulations=accumulations,
        )
        away = quadratic.START - quadratic.CENTRES
        gradients = np.einsum("tde,te->td", hessians, away)
        mixture = np.einsum("t,tde->de", weights, hessians)
        constants = replace(
            quadratic.constants(),
            gram=gradients @ gradients.T,
            losses=np.einsum("td,td->t", gradients, away) / 2,
            smoothness=smoothness,
            mixture_smoothness=float(np.linalg.eigvalsh(mixture)[-1]),
        )
        assert reach_of(setting, constants).is_inside
        merges = run_quadratic(rng, setting=setting, hessians=hessians, momentum=momentum)
        apart = merges[:, None] - quadratic.CENTRES
        losses = np.einsum("t,rtd,tde,rte->r", weights, apart, hessians, apart) / 2
        error = losses.std(ddof=1) / math.sqrt(len(losses))
        assert losses.mean() - 3 * error <= training_loss(setting, constants).total


def test_unknown_curvature_gives_an_unknown_reach() -> None:
    """The word is score, and the reach is not printed as a number."""
    unknown = replace(quadratic.constants(), smoothness=np.full(4, np.nan))
    reach = reach_of(quadratic.setting(), unknown)
    assert (reach.word, str(reach)) == (Word.SCORE, "reach not measured")


def test_kink_breaks_the_proved_form_inside_its_range() -> None:
    """|x| from 0.1, ten steps of 0.1: curvature and reach are 0, the end is 0.1, T is -0.4."""
    constants = TaskConstants(
        gram=np.array([[1.0]]),
        noise=np.zeros(1),
        losses=np.array([0.1]),
        smoothness=np.zeros(1),
        mixture_smoothness=0.0,
        example_smoothness=0.0,
    )
    setting = MergeSetting(
        weights=[1],
        coefficients=[1],
        lr=[0.1],
        batch_sizes=[1],
        num_examples=[1],
        accumulations=(sgd([1.0] * 10),),
    )
    end = 0.1
    for _ in range(10):
        end -= 0.1 * math.copysign(1, end)
    assert reach_of(setting, constants).is_inside
    assert training_loss(setting, constants).total == pytest.approx(-0.4)
    assert abs(end) > training_loss(setting, constants).total
    kinks = Labelled(
        value=-0.4,
        form=Form.PROVED,
        reach=reach_of(setting, constants),
        reasons=reasons_of(has_kinks=True),
    )
    assert kinks.word is Word.SCORE
