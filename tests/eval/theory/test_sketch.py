import numpy as np
import pytest

from eval.theory.sketch import WIDTH, sketch, sketched_products


def test_products_of_sketches_are_unbiased_and_as_precise_as_stated() -> None:
    """Their deviation over many pairs is at most sqrt(2 / WIDTH) |u| |v|, and their mean is 0."""
    rng = np.random.default_rng(0)
    vectors = [rng.standard_normal(20_000).astype(np.float32) for _ in range(12)]
    lengths = [float(np.linalg.norm(each)) for each in vectors]
    sketches = sketch(vectors).astype(np.float64)
    errors = [
        (float(sketches[i] @ sketches[j]) - float(vectors[i] @ vectors[j]))
        / (lengths[i] * lengths[j])
        for i in range(12)
        for j in range(i)
    ]
    assert np.std(errors) < 1.3 * np.sqrt(2 / WIDTH)
    assert abs(np.mean(errors)) < 4 * np.sqrt(2 / WIDTH / len(errors))


def test_sketches_are_linear_and_the_same_everywhere() -> None:
    """Buckets and signs depend on the index alone; these are the first ones."""
    vector = np.arange(1.0, 6.0, dtype=np.float32)
    (whole,) = sketch([vector])
    (double,) = sketch([2 * vector])
    assert np.array_equal(double, 2 * whole)
    found = {int(place): float(whole[place]) for place in np.flatnonzero(whole)}
    assert found == {118191: 1, 91636: -2, 83279: -3, 33260: 4, 29851: -5}


def test_products_within_a_task_are_exact() -> None:
    """Those of two tasks come from the sketches."""
    rng = np.random.default_rng(1)
    batches = rng.standard_normal((2, 3, 100)).astype(np.float32)
    exact = [each.astype(float) @ each.astype(float).T for each in batches]
    products = sketched_products([sketch(list(each)) for each in batches], exact=exact)
    assert products.shape == (2, 3, 2, 3)
    assert products[0, :, 0] == pytest.approx(exact[0])
    between = batches[0].astype(float) @ batches[1].astype(float).T
    assert products[0, :, 1] == pytest.approx(between, abs=5)
    with pytest.raises(ValueError, match="different numbers"):
        sketched_products([sketch(list(batches[0])), sketch(list(batches[1, :2]))], exact=exact)
