"""Reads and restores the tensors that a checkpoint of a training contains."""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from eval.counts import first_names
from workers.models.tied_weights import load_state, own_state
from workers.workspace import BACKBONE_PREFIX, HEAD_PREFIX

OPTIMIZER_PREFIX = "optimizer."
AVERAGE_PREFIX = "average."

_STEP = "step"
_ADAM = (_STEP, "exp_avg", "exp_avg_sq")
# The tensors that an optimizer keeps for a parameter after its first gradient. SGD without momentum
# keeps none.
_STATE_NAMES: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.SGD: ("momentum_buffer",),
    torch.optim.Adam: _ADAM,
    torch.optim.AdamW: _ADAM,
}


class StateMismatchError(ValueError):
    """Tensors that are not a state of this training; the message names the first mismatches."""


def model_tensors(backbone: nn.Module, head: nn.Module) -> dict[str, Tensor]:
    """Returns the model's own weights and buffers as `backbone.<name>` and `head.<name>`.

    A tensor with several names is there once; see `workers.models.tied_weights`.
    """
    return {
        **{BACKBONE_PREFIX + name: tensor for name, tensor in own_state(backbone).items()},
        **{HEAD_PREFIX + name: tensor for name, tensor in head.state_dict().items()},
    }


def are_finite(tensors: Iterable[Tensor]) -> bool:
    """Returns whether no tensor has a NaN or infinite entry."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Returns the optimizer's own tensors as `optimizer.<position of parameter>.<name>`."""
    return {
        _name(position, name): optimizer.state[parameter][name]
        for position, parameter in enumerate(_parameters(optimizer))
        for name in optimizer.state.get(parameter, {})
        if optimizer.state[parameter][name] is not None
    }


def average_tensors(average: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the mean's own tensors as `average.backbone.<name>` and `average.head.<name>`."""
    return {AVERAGE_PREFIX + name: tensor for name, tensor in average.items()}


def load_model(tensors: Mapping[str, Tensor], *, backbone: nn.Module, head: nn.Module) -> None:
    """Copies tensors, named as in `model_tensors`, into a model."""
    load_state(backbone, _below(BACKBONE_PREFIX, tensors))
    head.load_state_dict(_below(HEAD_PREFIX, tensors))


def restore_tensors(
    tensors: Mapping[str, Tensor],
    *,
    backbone: nn.Module,
    head: nn.Module,
    optimizer: torch.optim.Optimizer,
    has_average: bool = False,
) -> dict[str, Tensor]:
    """Restores a model and an optimizer, in place, from the tensors of a checkpoint.

    Momenta get the memory layout of their parameters. Fused optimizers read both in memory order,
    so a channels-last weight with a contiguous momentum would be updated with another weight's
    momentum.

    Args:
        tensors: The checkpoint's tensors, named as the functions above name them.
        backbone: Receives the weights.
        head: Receives the weights.
        optimizer: Receives its own tensors.
        has_average: Whether the tensors must contain a mean of the weights.

    Returns:
        A copy of the mean of the weights, by their names; empty without a mean.

    Raises:
        StateMismatchError: A tensor is missing, unknown, or has another shape or type. Model and
            optimizer are unchanged.
    """
    model = model_tensors(backbone, head)
    expected = {
        **model,
        **dict(_expected(optimizer, among=tensors)),
        **(average_tensors(model) if has_average else {}),
    }
    if names := sorted(_mismatches(tensors, expected=expected)):
        raise StateMismatchError(
            f"{len(names)} tensors are missing, unknown, or have another shape or type: "
            f"{first_names(names)}"
        )
    load_model(tensors, backbone=backbone, head=head)
    optimizer.state.clear()
    for position, parameter in enumerate(_parameters(optimizer)):
        for name in _STATE_NAMES[type(optimizer)]:
            full_name = _name(position, name)
            if full_name in expected:
                copy = torch.empty_like(expected[full_name]).copy_(tensors[full_name])
                optimizer.state[parameter][name] = copy
    return {
        name: torch.empty_like(model[name]).copy_(tensor)
        for name, tensor in _below(AVERAGE_PREFIX, tensors).items()
    }


def _expected(
    optimizer: torch.optim.Optimizer, *, among: Iterable[str]
) -> Iterator[tuple[str, Tensor]]:
    """Yields names and shapes of the optimizer's tensors for the parameters that have any."""
    owners = {name.rpartition(".")[0] for name in among}
    for position, parameter in enumerate(_parameters(optimizer)):
        if _name(position) not in owners:
            continue
        for name in _STATE_NAMES[type(optimizer)]:
            count = torch.empty((), dtype=torch.float32, device=parameter.device)
            yield _name(position, name), count if name == _STEP else parameter.detach()


def _mismatches(tensors: Mapping[str, Tensor], *, expected: Mapping[str, Tensor]) -> Iterator[str]:
    yield from tensors.keys() ^ expected.keys()
    for name in tensors.keys() & expected.keys():
        tensor, like = tensors[name], expected[name]
        if (tensor.shape, tensor.dtype) != (like.shape, like.dtype):
            yield name


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _name(position: int, *parts: str) -> str:
    return ".".join((f"{OPTIMIZER_PREFIX}{position}", *parts))


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
