"""A LoRA adapter in the layout of peft's files, and the dense weights that it stands for.

An adapter of a layer with the weight W, (out, in) or (out, in, height, width), is two matrices:
A, (rank, in * height * width), and B, (out, rank). The layer then computes with
W + alpha / rank * B A. Free of peft.

Source: Hu 2021, LoRA, arXiv:2106.09685, section 4.1; alpha as there.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PREFIX = "base_model.model."
"""The beginning of all names of tensors in peft's files."""
DOWN, UP = ".lora_A.weight", ".lora_B.weight"


def exactly(layers: Iterable[str]) -> str:
    """Returns the pattern by which peft finds these layers and no other.

    A list of names would also select layers whose name ends with one of them after a dot.
    """
    return "|".join(re.escape(layer) for layer in layers)


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """The matrices of an adapter, by layer."""

    rank: int
    alpha: float
    layers: Mapping[str, tuple[Tensor, Tensor]]
    """A and B of each layer, in the shapes of peft's files: those of the weights of a linear layer
    or convolution from the input to `rank` channels, and of one with a kernel of 1 x 1 from these
    to the output."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors of peft's file, by its names."""
        return {
            f"{PREFIX}{layer}{end}": tensor
            for layer, pair in self.layers.items()
            for end, tensor in zip((DOWN, UP), pair, strict=True)
        }

    def config_json(self) -> bytes:
        """Returns the content of peft's `adapter_config.json`."""
        config: dict[str, Any] = {
            "peft_type": "LORA",
            "task_type": None,
            "base_model_name_or_path": None,
            "inference_mode": True,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": exactly(self.layers),
        }
        return json.dumps(config, indent=2).encode() + b"\n"

    def change(self, layer: str) -> Tensor:
        """Returns the change of a layer's weight as a matrix, in float32 on the CPU.

        Shapes: (out, in * height * width).
        """
        down, up = (each.detach().cpu().float().flatten(1) for each in self.layers[layer])
        return (up @ down) * (self.alpha / self.rank)

    def merged(self, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the base's tensors with the adapter added to the weights of its layers.

        The products are computed on the CPU in float32, in the order of the layers, so that a
        file's adapter and a trained one give the same bits.

        Shapes:
            base, returns: those of the model's own tensors, by name.
        """
        merged = dict(base)
        for layer in self.layers:
            weight = base[f"{layer}.weight"]
            dense = weight.detach().cpu().float() + self.change(layer).reshape(weight.shape)
            merged[f"{layer}.weight"] = torch.empty_like(weight).copy_(dense)
        return merged
