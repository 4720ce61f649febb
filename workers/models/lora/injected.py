"""Backbones with LoRA adapters in training; the only module that imports the optional package peft.

Importing peft takes 4.7 s of CPU time, as it loads transformers and torch's compiler, so only
trials of adapters import it. `without_compiler` cannot spare the compiler: transformers needs it.
"""

import warnings
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from workers.models.backbones import Backbone
from workers.models.lora.adapter import Adapter, exactly
from workers.models.lora.targets import target_layers
from workers.models.memory_layout import lay_out
from workers.models.pretrained_weights import WeightsError
from workers.sampling.seeds import derive_seed
from workers.specs.hyperparameters import Hyperparameters

INSTALL_PEFT = 'pip install "mergesweep[lora]"'
_NAME = "default"
"""peft's name of an adapter that is the only one."""


class PeftMissingError(WeightsError):
    """This node lacks the package peft."""


@dataclass(frozen=True, kw_only=True)
class AdaptedBackbone:
    """A copy of a backbone whose layers have adapters, which alone are trained."""

    backbone: Backbone
    """The copy; its weights need no gradient."""
    layers: tuple[str, ...]
    """The names of the layers with an adapter."""
    rank: int
    alpha: float

    def adapter(self) -> Adapter:
        """Returns the adapter as it is now; its tensors are the model's own."""
        pairs = {}
        for name in self.layers:
            layer = self.backbone.module.get_submodule(name)
            pairs[name] = (_weight(layer, "lora_A"), _weight(layer, "lora_B"))
        return Adapter(rank=self.rank, alpha=self.alpha, layers=pairs)


def adapted_backbone(
    backbone: Backbone, hyperparameters: Hyperparameters, *, device: torch.device
) -> AdaptedBackbone:
    """Returns a copy of a backbone with adapters, which change nothing yet: each B is zero.

    Each A is drawn as peft draws it, from the seed.

    Args:
        backbone: The backbone with the weights of the base; it stays as it is.
        hyperparameters: Rank, alpha and targets of the adapters, and the seed.
        device: The device of the copy.

    Raises:
        PeftMissingError: peft is not installed.
        TargetsError: The targets select no layer.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about optional packages, at import
            import peft  # noqa: PLC0415 optional
    except ImportError as error:
        raise PeftMissingError(
            f"training LoRA adapters needs peft on every node ({error}); run: {INSTALL_PEFT}"
        ) from error
    settings = hyperparameters.canonical()
    module = deepcopy(backbone.module).cpu()  # random numbers of every device are the CPU's
    layers = target_layers(module, targets=settings.lora_targets)
    config = peft.LoraConfig(
        r=settings.lora_rank,
        # Declared as a whole number; peft only divides it by the rank.
        lora_alpha=settings.lora_alpha,  # type: ignore[arg-type]
        target_modules=exactly(layers),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(settings.seed, "lora"))
        module = peft.inject_adapter_in_model(config, module, adapter_name=_NAME)
    return AdaptedBackbone(
        backbone=replace(backbone, module=lay_out(module, device=device)),
        layers=layers,
        rank=settings.lora_rank,
        alpha=settings.lora_alpha,
    )


def _weight(layer: nn.Module, part: str) -> Tensor:
    found = getattr(layer, part)[_NAME].weight
    assert isinstance(found, Tensor)
    return found.detach()
