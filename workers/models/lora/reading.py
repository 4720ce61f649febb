"""Reads adapters in peft's layout, of any origin, or says why one has no dense weights here."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from eval.counts import first_names
from merge.inputs.matching import described
from workers.models.fitted_weights import FLOATS
from workers.models.lora.adapter import DOWN, PREFIX, UP, Adapter
from workers.models.lora.files import ADAPTER_FILE, CONFIG_FILE
from workers.models.pretrained_weights import WeightsError
from workers.models.tensor_files import TensorFile
from workers.models.tensor_header import TensorFileError

_WITHOUT = {
    "use_dora": "DoRA scales the weights' columns",
    "use_qalora": "QALoRA pools the inputs",
    "use_bdlora": "its matrices are block-diagonal",
    "lora_bias": "it changes biases too",
    "fan_in_fan_out": "its weights are transposed",
    "rank_pattern": "its layers have several ranks",
    "alpha_pattern": "its layers have several alphas",
    "modules_to_save": "it has whole layers beside the adapters",
    "layer_replication": "it repeats layers of the model",
    "trainable_token_indices": "it changes embeddings of tokens",
    "target_parameters": "it adapts parameters that are no layer's weight",
    "alora_invocation_tokens": "it acts after some tokens only",
}
"""Settings of peft that must be off, with the reason in words."""
_REMEDY = "merge it with peft (`merge_and_unload`), and give the file of the dense weights"
_PLAIN_STARTS = (True, False, "gaussian", "orthogonal")
"""Values of `init_lora_weights` that leave the base's weights as they are."""


def read_adapter(folder: Path) -> Adapter:
    """Reads an adapter of plain LoRA, with the scale alpha / rank or alpha / sqrt(rank).

    Raises:
        WeightsError: A file cannot be read, or the adapter is of another kind.
    """
    config = _config(folder / CONFIG_FILE)
    rank, alpha = config["r"], float(config["lora_alpha"])
    path = folder / ADAPTER_FILE
    try:
        tensors = TensorFile(path)
    except TensorFileError as error:
        raise WeightsError(str(error)) from error
    layers = {
        name.removeprefix(PREFIX).removesuffix(DOWN)
        for name in tensors
        if name.startswith(PREFIX) and name.endswith(DOWN)
    }
    pairs = {f"{PREFIX}{layer}{end}" for layer in layers for end in (DOWN, UP)}
    if not layers or (other := sorted(pairs ^ set(tensors))):
        found = first_names(other if layers else sorted(tensors))
        raise WeightsError(
            f"{path}: expected two matrices for each layer, {PREFIX}LAYER{DOWN} and "
            f"{PREFIX}LAYER{UP}; found otherwise: {found}"
        )
    if config.get("use_rslora"):
        alpha *= math.sqrt(rank)
    return Adapter(
        rank=rank,
        alpha=alpha,
        layers={
            layer: (tensors[f"{PREFIX}{layer}{DOWN}"], tensors[f"{PREFIX}{layer}{UP}"])
            for layer in sorted(layers)
        },
    )


def check_adapter(adapter: Adapter, *, base: Mapping[str, Tensor], shown: str) -> None:
    """Checks that an adapter is one of a base's layers, and changes them by finite numbers.

    Args:
        adapter: The adapter.
        base: The base's tensors by name; they may be on the meta device.
        shown: The adapter's path in messages.

    Raises:
        WeightsError: A layer is missing or has another shape, or numbers that no weight has; the
            message has some names.
    """
    missing = [layer for layer in adapter.layers if f"{layer}.weight" not in base]
    if missing:
        names = first_names(missing)
        known = first_names(each.removesuffix(".weight") for each in base)
        raise WeightsError(
            f"{shown}: {len(missing)} of {len(adapter.layers)} layers are not the model's: "
            f"{names}; names must be timm's, such as {known}"
        )
    for layer, (down, up) in adapter.layers.items():
        weight = base[f"{layer}.weight"]
        points = (1,) * (weight.ndim - 2)
        expected = ((adapter.rank, *weight.shape[1:]), (weight.shape[0], adapter.rank, *points))
        found = (tuple(down.shape), tuple(up.shape))
        if found != expected:
            raise WeightsError(
                f"{shown}: the matrices of {layer} have the shapes {found[0]} and {found[1]}; the "
                f"model and a rank of {adapter.rank} need {expected[0]} and {expected[1]}"
            )
        if not {down.dtype, up.dtype} <= {*FLOATS} or not bool(
            adapter.change(layer).isfinite().all()
        ):
            raise WeightsError(
                f"{shown}: the matrices of {layer} must be floats with a finite product; they are "
                f"{described(down)} and {described(up)}; save them as float32"
            )


def _config(path: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise WeightsError(f"{path}: is no JSON ({error}); copy it again") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise WeightsError(f"{path}: peft_type is {kind!r}; only LORA has dense weights here")
    for name, reason in _WITHOUT.items():
        if config.get(name):
            raise WeightsError(f"{path}: {name} is {config[name]!r}, so that {reason}; {_REMEDY}")
    if config.get("bias", "none") != "none":
        raise WeightsError(f"{path}: bias is {config['bias']!r}; only adapters with none are read")
    if config.get("init_lora_weights", True) not in _PLAIN_STARTS:
        raise WeightsError(
            f"{path}: init_lora_weights is {config['init_lora_weights']!r}, which changes the "
            "base; "
            f"{_REMEDY}"
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not (
        isinstance(rank, int)
        and rank > 0
        and isinstance(alpha, (int, float))
        and math.isfinite(alpha)
    ):
        raise WeightsError(f"{path}: r is {rank!r} and lora_alpha {alpha!r}; expected two numbers")
    return config
