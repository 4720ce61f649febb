import numpy as np
import pytest

from eval.theory.spread import dare_spread, dare_stability_factor, relative_spread, spread

WEIGHTS = np.array([0.5, 0.3, 0.2])


def test_spread_of_vectors_by_hand() -> None:
    """Two orthogonal unit vectors: each is 1/2 from the mean, whose square is 1/2."""
    gram = np.eye(2)
    assert spread(gram, [0.5, 0.5]) == pytest.approx(0.5)
    assert relative_spread(gram, [0.5, 0.5]) == pytest.approx(1)
    assert relative_spread(9 * gram, [0.5, 0.5]) == pytest.approx(1)
    assert spread(np.ones((2, 2)), [0.5, 0.5]) == 0


@pytest.mark.parametrize("rescale", [True, False])
def test_dare_spread_is_the_mean_over_masks(rescale: bool) -> None:  # noqa: FBT001
    """Over 2,000 masks, within three standard errors."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((3, 12)) + 0.3
    for density in (0.1, 0.5, 0.9):
        masks = rng.random((2000, 3, 12)) < density
        thinned = masks * vectors / (density if rescale else 1)
        mean = np.einsum("i,rid->rd", WEIGHTS, thinned)
        values = np.einsum("i,rid->r", WEIGHTS, (thinned - mean[:, None]) ** 2)
        expected = dare_spread(vectors @ vectors.T, WEIGHTS, density=density, rescale=rescale)
        assert abs(values.mean() - expected) <= 3 * values.std(ddof=1) / np.sqrt(2000)


def test_dare_of_two_orthogonal_vectors() -> None:
    """The spread doubles at q = .5 and grows tenfold at q = .1, as the stability does."""
    before = spread(np.eye(2), [0.5, 0.5])
    for density, factor in ((0.5, 2), (0.1, 10), (1.0, 1)):
        after = dare_spread(np.eye(2), [0.5, 0.5], density=density)
        assert after / before == pytest.approx(factor)
        assert dare_stability_factor(density) == pytest.approx(factor)
