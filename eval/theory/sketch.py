"""Count sketches: short vectors that keep inner products of long ones on average.

Tasks are measured on different nodes, and gradients of large models are too long to store. A sketch
adds each entry, with a random sign, to one of `WIDTH` buckets. Signs and buckets depend on the
entry's index alone, so that sketches made anywhere can be multiplied.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

WIDTH = 1 << 18
"""Buckets. The standard deviation of a product is at most `sqrt(2 / WIDTH) |u| |v|`, 0.28 %."""
_CHUNK = 1 << 20
"""Entries that are hashed at a time: some megabytes."""
_STEP, _FIRST, _SECOND = (
    np.uint64(0x9E3779B97F4A7C15),
    np.uint64(0xBF58476D1CE4E5B9),
    np.uint64(0x94D049BB133111EB),
)


def sketch(vectors: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """Returns the sketches of vectors of one length.

    Source: Charikar 2002, Finding frequent items in data streams; the hash is that of splitmix64.

    Shapes:
        vectors: (entries,) each.
        returns: (vectors, WIDTH).
    """
    sums = np.zeros((len(vectors), WIDTH))
    for start in range(0, len(vectors[0]), _CHUNK):
        stop = min(start + _CHUNK, len(vectors[0]))
        buckets, signs = _hashes(start, stop)
        for index, vector in enumerate(vectors):
            signed = signs * vector[start:stop]
            sums[index] += np.bincount(buckets, weights=signed, minlength=WIDTH)
    return sums.astype(np.float32)


def sketched_products(
    sketches: Sequence[npt.NDArray[np.float32]], *, exact: Sequence[npt.NDArray[np.float64]]
) -> npt.NDArray[np.float64]:
    """Returns the inner products of all tasks' batches, for the estimators of `gram`.

    Products within a task are exact, those of two tasks are sketched.

    Shapes:
        sketches: (Q, WIDTH) for each task.
        exact: (Q, Q) for each task.
        returns: (N, Q, N, Q).

    Raises:
        ValueError: The tasks have different numbers of batches.
    """
    numbers = {len(each) for each in sketches}
    if len(numbers) != 1:
        raise ValueError(f"tasks were measured with different numbers of batches: {numbers}")
    (num_batches,) = numbers
    stacked = np.concatenate(sketches).astype(np.float64)
    shape = (len(sketches), num_batches, len(sketches), num_batches)
    products = (stacked @ stacked.T).reshape(shape)
    for task, within in enumerate(exact):
        products[task, :, task] = within
    return products


def _hashes(start: int, stop: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Returns the buckets and the signs of the entries from `start` to `stop`."""
    bits = np.arange(start + 1, stop + 1, dtype=np.uint64) * _STEP
    bits = (bits ^ (bits >> np.uint64(30))) * _FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
    bits ^= bits >> np.uint64(31)
    buckets = (bits % np.uint64(WIDTH)).astype(np.int64)
    signs = np.where(bits >> np.uint64(63), 1.0, -1.0)
    return buckets, signs
