"""Sizes of timm models, computed in a subprocess because the driver must not load torch.

`python -m workers.models.model_sizes MODEL...` builds models on torch's meta device, without memory
for their weights, and prints their sizes as JSON. The node's cache keeps the sizes for each version
of timm.
"""

import contextlib
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workers.artifacts.node_cache import cache_root

TIMEOUT_S = 300.0
"""Timeout of the subprocess; importing torch and timm takes long on a busy machine."""
HEAD_ENTRY_BYTES = 4  # float32


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """The size of a backbone without its classifier."""

    num_parameters: int
    """Number of trainable weights."""
    parameter_bytes: int
    """Size of the trainable weights."""
    state_bytes: int
    """Size of parameters and buffers, which a checkpoint consists of."""
    num_features: int
    """Width of the features, the inputs of a classifier."""
    flops_per_pixel: float | None
    """Floating point operations of a forward pass over an image of the model's default size,
    divided by the number of pixels; None if the model cannot run on the meta device."""

    def expert_bytes(self, *, num_classes: int) -> int:
        """Returns the size of an expert's tensors: backbone and linear head."""
        return self.state_bytes + HEAD_ENTRY_BYTES * num_classes * (self.num_features + 1)


def model_sizes(models: Iterable[str]) -> dict[str, ModelSize]:
    """Returns the sizes of timm models by name, without models whose size cannot be computed."""
    wanted = sorted(set(models))
    known = _cached_sizes()
    missing = [model for model in wanted if model not in known]
    if missing:
        known = {**known, **_compute_sizes(missing)}
        cache_sizes(known)
    return {model: known[model] for model in wanted if model in known}


def _compute_sizes(models: Sequence[str]) -> dict[str, ModelSize]:
    command = [sys.executable, "-m", "workers.models.model_sizes", *models]
    try:
        answer = subprocess.run(  # noqa: S603 our own module
            command, capture_output=True, timeout=TIMEOUT_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return _parse(answer)


def _parse(content: bytes) -> dict[str, ModelSize]:
    try:
        return {model: ModelSize(**fields) for model, fields in json.loads(content).items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def _cached_sizes() -> dict[str, ModelSize]:
    try:
        return _parse(_cache_path().read_bytes())
    except OSError:
        return {}


def cache_sizes(sizes: Mapping[str, ModelSize]) -> None:
    """Replaces the sizes in the node's cache."""
    path = _cache_path()
    content = {model: asdict(size) for model, size in sizes.items()}
    with contextlib.suppress(OSError):  # the next call computes them again
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        beside.write_text(json.dumps(content, indent=1), encoding="utf-8")
        beside.replace(path)


def _cache_path() -> Path:
    return cache_root() / f"model-sizes-timm-{importlib.metadata.version('timm')}.json"


def main(models: Sequence[str]) -> int:
    """Prints the sizes of the models that timm knows; returns the exit code."""
    # Imported here because the driver imports this module, and must not load torch.
    import timm  # noqa: PLC0415
    import torch  # noqa: PLC0415

    from workers.models.backbones import create_backbone  # noqa: PLC0415

    sizes = {}
    with torch.device("meta"):
        for model in models:
            if timm.is_model(model):
                backbone = create_backbone(model, seed=0, device=torch.device("meta"))
                parameters = list(backbone.module.parameters())
                sizes[model] = ModelSize(
                    num_parameters=sum(each.numel() for each in parameters),
                    parameter_bytes=sum(each.nbytes for each in parameters),
                    state_bytes=sum(each.nbytes for each in backbone.module.state_dict().values()),
                    num_features=backbone.num_features,
                    flops_per_pixel=_flops_per_pixel(backbone.module),
                )
    print(json.dumps({model: asdict(size) for model, size in sizes.items()}))  # noqa: T201 output
    return 0


def _flops_per_pixel(module: Any) -> float | None:  # noqa: ANN401 its type would load torch
    import torch  # noqa: PLC0415 as above
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415

    channels, height, width = module.default_cfg["input_size"]
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module.eval()(torch.empty(1, channels, height, width))
    except Exception:  # noqa: BLE001 models fail on the meta device in various ways
        return None
    return float(counter.get_total_flops() / (height * width))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
