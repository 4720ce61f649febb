"""Writes backbones, heads and what each task needs into a folder that timm loads by itself."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from timm.models._hub import save_config_for_hf
from torch import Tensor, nn

from workers.merging.surgery import Adapter
from workers.models.backbones import Backbone
from workers.models.tensor_files import write_with_metadata

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
HEADS_FILE = "heads.safetensors"
TASKS_FILE = "tasks.json"
ADAPTER_FOLDER = "adapter"
"""The folder of an expert's LoRA adapter."""
SHARED = "."
"""Place of a backbone that all tasks share: the folder itself."""
FORMAT = {"format": "pt"}
_MODES = {1: "L", 3: "RGB"}
_OF_OTHER_WEIGHTS = ("tag", "license", "origin_url", "paper_ids", "paper_name", "notes")
"""Entries of timm's configuration that are about timm's own weights of the model."""


@dataclass(frozen=True, kw_only=True)
class TaskImages:
    """The images and classes of a task, as the study evaluates them."""

    classes: tuple[str, ...]
    channels: int
    """1 for grey, 3 for colour."""


@dataclass(kw_only=True)
class ModelFolder:
    """A folder that is being filled; `finish` writes what the tasks have in common."""

    path: Path
    image_size: int
    """Height and width of the images, in pixels."""
    images: Mapping[str, TaskImages]
    """By task."""
    _heads: dict[str, Tensor] = field(default_factory=dict)
    _places: dict[str, str] = field(default_factory=dict)

    def write_model(self, backbone: Backbone, *, place: str) -> None:
        """Writes a backbone with its configuration, in timm's form.

        Args:
            backbone: A backbone that is not linearised.
            place: The folder's name inside this one; `SHARED` for the folder itself.
        """
        folder = self.path / place
        folder.mkdir(exist_ok=True)
        size = self.image_size
        save_config_for_hf(
            backbone.module,
            str(folder / CONFIG_FILE),
            data_config={
                "input_size": (3, size, size),
                "interpolation": "bicubic",
                "crop_pct": 1.0,
                "crop_mode": "center",
                "mean": backbone.normalization.mean,
                "std": backbone.normalization.std,
            },
        )
        config = json.loads((folder / CONFIG_FILE).read_text())
        for name in _OF_OTHER_WEIGHTS:
            config["pretrained_cfg"].pop(name, None)
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
        # Under all names: timm loads strictly, also where two names mean one tensor.
        write_with_metadata(folder / WEIGHTS_FILE, backbone.module.state_dict(), metadata=FORMAT)

    def add_task(
        self, task: str, *, place: str, head: nn.Linear, adapter: Adapter | None = None
    ) -> None:
        """Adds a task: the place of its backbone, its head, and its adapter if it has one."""
        self._places[task] = place
        self._heads |= {f"{task}.{name}": each for name, each in head.state_dict().items()}
        if adapter is not None:
            self._heads |= {f"{task}.down": adapter.down, f"{task}.up": adapter.up}

    def add_adapter(self, files: Mapping[str, Path]) -> None:
        """Copies the files of a LoRA adapter, by name, into a folder of their own."""
        (self.path / ADAPTER_FOLDER).mkdir()
        for name, path in files.items():
            (self.path / ADAPTER_FOLDER / name).write_bytes(path.read_bytes())

    def finish(self) -> None:
        """Writes the heads, and the file that says what each task needs."""
        write_with_metadata(self.path / HEADS_FILE, self._heads, metadata=FORMAT)
        tasks = {
            task: {
                "model": place,
                "mode": _MODES[self.images[task].channels],
                "classes": list(self.images[task].classes),
            }
            for task, place in self._places.items()
        }
        text = json.dumps(tasks, indent=2) + "\n"
        (self.path / TASKS_FILE).write_text(text, encoding="utf-8")
