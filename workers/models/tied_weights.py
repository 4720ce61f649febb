"""The state of a module in which several names may mean one tensor.

Some models apply one layer in several places, for example CoaT. Torch lists such a tensor under
each of its names. Files have it once, under its first name, so that it is trained, merged and
counted once.
"""

from collections.abc import Mapping

from torch import Tensor, nn


def own_state(module: nn.Module) -> dict[str, Tensor]:
    """Returns a module's own parameters and buffers, each once under its first name."""
    every = module.state_dict(keep_vars=True)
    firsts = {id(tensor): name for name, tensor in reversed(every.items())}
    return {name: every[name].detach() for name in every if firsts[id(every[name])] == name}


def load_state(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copies tensors, named as in `own_state`, into a module.

    Raises:
        RuntimeError: A name is missing or unknown, or a shape differs.
    """
    own = own_state(module)
    if own.keys() == tensors.keys() and all(own[name].shape == tensors[name].shape for name in own):
        # A tenth of the time of `load_state_dict`, which visits every module.
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
        return
    tied = {name: tensors[first] for name, first in tied_names(module).items() if first in tensors}
    module.load_state_dict({**tensors, **tied})  # raises the error that names what differs


def tied_names(module: nn.Module) -> dict[str, str]:
    """Returns the further names of tensors that have several, each with the tensor's first name."""
    every = module.state_dict(keep_vars=True)
    firsts = {id(tensor): name for name, tensor in reversed(every.items())}
    return {
        name: firsts[id(tensor)] for name, tensor in every.items() if firsts[id(tensor)] != name
    }
