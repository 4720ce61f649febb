"""How large timm models are, asked of timm in a process of its own: a driver never loads torch.

`python -m workers.models.model_sizes MODEL...` builds models without memory for their weights and
prints their sizes as JSON. What was asked once is kept in the node's cache, by the version of timm.
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
"""For importing torch and timm, seconds, on a busy machine too."""
HEAD_ENTRY_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """What a backbone without its classifier takes."""

    num_parameters: int
    """Trained weights."""
    parameter_bytes: int
    state_bytes: int
    """Parameters and buffers: what a checkpoint of the weights holds."""
    num_features: int
    """Inputs of a classifier."""
    flops_per_pixel: float | None
    """Floating point operations of a forward pass over an image of the model's own size, divided by
    its height and width; None for a model that cannot run without memory for its weights."""

    def expert_bytes(self, *, num_classes: int) -> int:
        """Returns the bytes of an expert's tensors: the backbone and a linear head."""
        return self.state_bytes + HEAD_ENTRY_BYTES * num_classes * (self.num_features + 1)


def model_sizes(models: Iterable[str]) -> dict[str, ModelSize]:
    """Returns the sizes of timm models by name; without those that cannot be asked about."""
    wanted = sorted(set(models))
    known = _kept()
    missing = [model for model in wanted if model not in known]
    if missing:
        known = {**known, **_ask(missing)}
        keep_sizes(known)
    return {model: known[model] for model in wanted if model in known}


def _ask(models: Sequence[str]) -> dict[str, ModelSize]:
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


def _kept() -> dict[str, ModelSize]:
    try:
        return _parse(_cache_path().read_bytes())
    except OSError:
        return {}


def keep_sizes(sizes: Mapping[str, ModelSize]) -> None:
    """Writes the sizes down that this node knows, in place of those that it knew."""
    path = _cache_path()
    content = {model: asdict(size) for model, size in sizes.items()}
    with contextlib.suppress(OSError):  # asked again the next time
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        beside.write_text(json.dumps(content, indent=1), encoding="utf-8")
        beside.replace(path)


def _cache_path() -> Path:
    return cache_root() / f"model-sizes-timm-{importlib.metadata.version('timm')}.json"


def main(models: Sequence[str]) -> int:
    """Prints the sizes of those models that timm knows; returns the exit code."""
    # Seconds of imports, which whoever imports this module does not want.
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
    except Exception:  # noqa: BLE001 whatever a model raises that cannot run without memory
        return None
    return float(counter.get_total_flops() / (height * width))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
