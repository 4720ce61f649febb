"""Estimates the inner products of the tasks' gradients, and their noise, from batches.

Each task gives the mean gradients of Q disjoint batches of m examples. All estimates need only the
inner products of these N Q vectors; the vectors themselves may be sketched.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number or array with its standard error, in the same units and shape."""

    value: Array
    standard_error: Array


def gradient_gram(products: Array) -> Array:
    """Returns the unbiased matrix of inner products `<g_i, g_j>`, shape (N, N).

    Off the diagonal `U_i'U_j / Q^2`, on it `(|U_i|^2 - sum_q |u_iq|^2) / (Q (Q-1))`, with `U_i` the
    sum of the batches' gradients `u_iq`. The diagonal may be negative and stays so.

    Args:
        products: `<u_iq, u_jr>`, shape (N, Q, N, Q).

    Raises:
        ValueError: The shape differs, or there are fewer than two batches.
    """
    num_tasks, num_batches = _shape(products)
    sums = products.sum(axis=(1, 3))
    gram = sums / num_batches**2
    squares = np.einsum("iqiq->i", products)
    diagonal = (np.diag(sums) - squares) / (num_batches * (num_batches - 1))
    gram[np.arange(num_tasks), np.arange(num_tasks)] = diagonal
    return np.asarray(gram)


def gradient_noise(products: Array, *, batch_size: int) -> Array:
    """Returns the unbiased `sigma_i2` of single examples, shape (N,).

        m / (Q-1) sum_q |u_iq - U_i / Q|^2

    Args:
        products: `<u_iq, u_jr>`, shape (N, Q, N, Q).
        batch_size: `m`, examples in a batch.
    """
    _, num_batches = _shape(products)
    squares = np.einsum("iqiq->i", products)
    sums = np.einsum("iqir->i", products)
    return np.asarray(batch_size / (num_batches - 1) * (squares - sums / num_batches))


def jackknife(products: Array, functional: Callable[[Array], npt.ArrayLike]) -> Estimate:
    """Returns a functional of the products, with the standard error from leaving one batch out.

    Batch q is left out of all tasks at once. The error is conservative where noise dominates (0.65
    against a true 0.43 in a simulation).

    Args:
        products: `<u_iq, u_jr>`, shape (N, Q, N, Q), at least three batches.
        functional: Maps products of any number of batches to a number or an array.

    Raises:
        ValueError: The shape differs, or there are fewer than three batches.
    """
    _, num_batches = _shape(products, least=3)
    left_out = []
    for batch in range(num_batches):
        kept = np.delete(np.arange(num_batches), batch)
        left_out.append(np.asarray(functional(products[:, kept][:, :, :, kept]), dtype=float))
    values = np.stack(left_out)
    spread = ((values - values.mean(axis=0)) ** 2).sum(axis=0)
    error = np.sqrt((num_batches - 1) / num_batches * spread)
    value = np.asarray(functional(products), dtype=float)
    return Estimate(value=value, standard_error=np.asarray(error))


def is_resolved(heterogeneity: float, *, noise: npt.ArrayLike, num_examples: int) -> bool:
    """Returns whether heterogeneity stands out of the noise: `Q m >= max sigma_i2 / kappa2`."""
    largest = float(np.max(np.asarray(noise, dtype=float)))
    return heterogeneity > 0 and num_examples >= largest / heterogeneity


def _shape(products: Array, *, least: int = 2) -> tuple[int, int]:
    shape = products.shape
    if len(shape) != 4 or shape[:2] != shape[2:]:  # noqa: PLR2004
        raise ValueError(f"products of batches' gradients have the shape (N, Q, N, Q), not {shape}")
    if shape[1] < least:
        raise ValueError(f"{shape[1]} batches a task were given; {least} are needed")
    return shape[0], shape[1]
