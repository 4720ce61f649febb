from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from merge.merge import MergeOptions, merge
from merge.operators.wudi import interference
from merge.parameters.spectral import WudiParams


def merged_matrix(*vectors: Tensor, steps: int = 400, lr: float = 1e-5) -> Tensor:
    """Merges task vectors on a base of zeros."""
    base = {"w": torch.zeros_like(vectors[0])}
    experts = [{"w": vector} for vector in vectors]
    return dict(merge(base, experts, options=MergeOptions(params=WudiParams(steps=steps, lr=lr))))[
        "w"
    ]


def random_vectors(number: int, *shape: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(number)]


def published_loss(merged: Tensor, *, vectors: list[Tensor]) -> Tensor:
    """Returns the loss as in the paper, in the dtype of the merged matrix."""
    terms = [
        ((merged - vector) @ vector.T).square().sum() / vector.square().sum()
        for vector in (each.to(merged.dtype) for each in vectors)
    ]
    return torch.stack(terms).sum()


SHAPES = pytest.mark.parametrize("shape", [(4, 5), (9, 3), (2, 20)])
"""The last shape is so wide that the Gram matrix is stored as its two factors."""


@SHAPES
def test_the_closed_gradient_is_that_of_the_published_loss(shape: tuple[int, int]) -> None:
    """Autograd gives the same gradient in float64, at the sum and elsewhere."""
    vectors = [vector.double() for vector in random_vectors(3, *shape)]
    for step in (torch.zeros(shape).double(), random_vectors(1, *shape, seed=1)[0].double()):
        merged = (torch.stack(vectors).sum(dim=0) + step).requires_grad_()
        published_loss(merged, vectors=vectors).backward()
        found = interference(vectors).gradient(step)
        torch.testing.assert_close(found, merged.grad, rtol=1e-10, atol=1e-12)


@SHAPES
def test_the_merge_is_what_adam_makes_of_the_published_loss(shape: tuple[int, int]) -> None:
    """Fifty steps of torch's Adam with autograd in float64 end at the same matrix."""
    vectors = random_vectors(3, *shape)
    merged = torch.stack(vectors).double().sum(dim=0).requires_grad_()
    optimizer = torch.optim.Adam([merged], lr=1e-2)
    for _ in range(50):
        optimizer.zero_grad()
        published_loss(merged, vectors=vectors).backward()
        optimizer.step()
    found = merged_matrix(*vectors, steps=50, lr=1e-2)
    torch.testing.assert_close(found, merged.detach().float(), rtol=0, atol=2e-5)


def test_the_first_step_is_as_long_as_the_learning_rate() -> None:
    """Two identities sum to 2 I with the gradient 2 I; a step of 1/2 leads to 1.5 I."""
    merged = merged_matrix(torch.eye(2), torch.eye(2), steps=1, lr=0.5)
    torch.testing.assert_close(merged, 1.5 * torch.eye(2))


def test_without_steps_it_is_the_sum() -> None:
    """The descent starts at the sum of the task vectors."""
    first, second = random_vectors(2, 4, 6)
    assert torch.equal(merged_matrix(first, second, steps=0), first + second)


def test_equal_experts_come_back_to_themselves() -> None:
    """The loss of equal task vectors is zero only at that vector."""
    vector = random_vectors(1, 4, 4)[0]
    merged = merged_matrix(vector, vector, vector, steps=3000, lr=1e-2)
    torch.testing.assert_close(merged, vector, rtol=0, atol=1e-3)


def test_tasks_with_orthogonal_inputs_stay_at_their_sum() -> None:
    """Without interference the gradient is exactly zero, so Adam does not move."""
    first, second = torch.tensor([[3.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 2.0], [0.0, 5.0]])
    assert torch.equal(merged_matrix(first, second), first + second)


def test_one_expert_is_itself() -> None:
    """A single task has no interference; the result has its bits."""
    vector = random_vectors(1, 6, 3, 3, 3)[0]
    assert torch.equal(merged_matrix(vector), vector)


@given(
    shape=st.tuples(st.integers(2, 6), st.integers(2, 20)),
    number=st.integers(2, 5),
    size=st.sampled_from([1e-3, 1e-2, 1]),
    seed=st.integers(0, 1000),
)
def test_the_loss_does_not_rise(
    shape: tuple[int, int], number: int, size: float, seed: int
) -> None:
    """Forty steps lower the loss, for small and large task vectors."""
    vectors = [size * vector for vector in random_vectors(number, *shape, seed=seed)]
    before = published_loss(torch.stack(vectors).double().sum(dim=0), vectors=vectors)
    after = published_loss(merged_matrix(*vectors, steps=40).double(), vectors=vectors)
    assert after < before
