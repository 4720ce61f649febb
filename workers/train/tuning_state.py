"""The tensors of a run in progress: what its checkpoint holds and what its continuation needs."""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from workers.workspace import BACKBONE_PREFIX, HEAD_PREFIX

OPTIMIZER_PREFIX = "optimizer."
AVERAGE_PREFIX = "average."
NUM_NAMES_SHOWN = 5
"""Names that a message lists: a run of another model differs in hundreds."""

_STEP = "step"
_ADAM = (_STEP, "exp_avg", "exp_avg_sq")
# What an optimizer keeps for a parameter that has had a gradient, apart from SGD without momentum.
_STATE_NAMES: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.SGD: ("momentum_buffer",),
    torch.optim.Adam: _ADAM,
    torch.optim.AdamW: _ADAM,
}


class UnfitStateError(ValueError):
    """Tensors are not the state of this run; the message names the first that do not fit."""


def model_tensors(backbone: nn.Module, head: nn.Module) -> dict[str, Tensor]:
    """Returns the weights and buffers themselves: `backbone.<name>` and `head.<name>`."""
    return {
        **{BACKBONE_PREFIX + name: tensor for name, tensor in backbone.state_dict().items()},
        **{HEAD_PREFIX + name: tensor for name, tensor in head.state_dict().items()},
    }


def are_finite(tensors: Iterable[Tensor]) -> bool:
    """Tells whether no entry of any tensor is NaN or infinite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Returns the momenta and their like themselves: `optimizer.<position of parameter>.<name>`."""
    return {
        _name(position, name): optimizer.state[parameter][name]
        for position, parameter in enumerate(_parameters(optimizer))
        for name in optimizer.state.get(parameter, {})
        if optimizer.state[parameter][name] is not None
    }


def average_tensors(average: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the mean of the weights itself: `average.backbone.<name>`, `average.head.<name>`."""
    return {AVERAGE_PREFIX + name: tensor for name, tensor in average.items()}


def load_model(tensors: Mapping[str, Tensor], *, backbone: nn.Module, head: nn.Module) -> None:
    """Sets a model, in place, to tensors by the names of `model_tensors`."""
    backbone.load_state_dict(_below(BACKBONE_PREFIX, tensors))
    head.load_state_dict(_below(HEAD_PREFIX, tensors))


def restore_tensors(
    tensors: Mapping[str, Tensor],
    *,
    backbone: nn.Module,
    head: nn.Module,
    optimizer: torch.optim.Optimizer,
    has_average: bool = False,
) -> dict[str, Tensor]:
    """Sets model and optimizer, in place, to what they were when the tensors were taken.

    Returns a copy of the mean of the weights, by their names; nothing if there must be none.

    Momenta get the memory layout of their parameters: fused optimizers walk through both in
    parallel, and a channels-last weight with a plain momentum would meet another's.

    Raises:
        UnfitStateError: A tensor is missing, unknown, or of another shape or type; nothing has
            changed then.
    """
    model = model_tensors(backbone, head)
    expected = {
        **model,
        **dict(_expected(optimizer, among=tensors)),
        **(average_tensors(model) if has_average else {}),
    }
    if unfit := sorted(_unfit(tensors, expected=expected)):
        raise UnfitStateError(
            f"{len(unfit)} tensors are missing, unknown, or of another shape or type: "
            f"{', '.join(unfit[:NUM_NAMES_SHOWN])}"
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
    """Yields what the optimizer keeps for each parameter of which there is anything at all."""
    owners = {name.rpartition(".")[0] for name in among}
    for position, parameter in enumerate(_parameters(optimizer)):
        if _name(position) not in owners:
            continue
        for name in _STATE_NAMES[type(optimizer)]:
            count = torch.empty((), dtype=torch.float32, device=parameter.device)
            yield _name(position, name), count if name == _STEP else parameter.detach()


def _unfit(tensors: Mapping[str, Tensor], *, expected: Mapping[str, Tensor]) -> Iterator[str]:
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
