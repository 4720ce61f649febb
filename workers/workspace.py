"""What a worker process keeps warm between jobs: store, caches, backbone, images."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from eval.evaluate import features_of
from eval.images import Split, open_split
from workers.artifacts import Artifacts
from workers.backbones import Backbone, create_backbone
from workers.cache import NodeCache
from workers.manifests import Manifest
from workers.store.opening import open_store

BASE_FILE = "backbone.safetensors"
EXPERT_FILE = "expert.safetensors"
BACKBONE_PREFIX = "backbone."
HEAD_PREFIX = "head."


class MissingArtifactError(Exception):
    """An input that a job needs is not committed in the store."""


class TensorFile(Mapping[str, Tensor]):
    """The tensors of a safetensors file under one prefix, memory-mapped and read one by one."""

    def __init__(self, path: Path, *, prefix: str = "") -> None:
        self._file: Any = safe_open(path, framework="pt")
        self._prefix = prefix
        names = (name for name in _keys(self._file) if name.startswith(prefix))
        self._names = dict.fromkeys(name.removeprefix(prefix) for name in names)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        tensor: Tensor = self._file.get_tensor(self._prefix + name)
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _keys(file: Any) -> list[str]:  # noqa: ANN401 safetensors has no types
    return list(file.keys())


class Workspace:
    """Owns one process's connection to the store and what it has loaded from it.

    Backbones are built once a base and reloaded in place; images stay memory-mapped; manifests,
    being immutable, are read once.
    """

    def __init__(self, store_url: str, *, cache_root: Path, device: torch.device) -> None:
        self.device = device
        self.artifacts = Artifacts(open_store(store_url))
        self._cache = NodeCache(cache_root)
        self._manifests: dict[tuple[str, str], Manifest] = {}
        self._backbones: dict[str, Backbone] = {}
        self._splits: dict[tuple[str, str], Split] = {}
        self._base_features: dict[tuple[str, str], Tensor] = {}

    def manifest(self, kind: str, artifact_id: str) -> Manifest:
        """Returns a committed artifact's manifest.

        Raises:
            MissingArtifactError: It is not committed.
        """
        key = (kind, artifact_id)
        if key not in self._manifests:
            found = self.artifacts.find(kind, artifact_id)
            if found is None:
                raise MissingArtifactError(f"{kind} {artifact_id} is not committed in the store")
            self._manifests[key] = found
        return self._manifests[key]

    def remember(self, manifest: Manifest) -> None:
        """Keeps a manifest that this process has just committed."""
        self._manifests[manifest.kind, manifest.id] = manifest

    def file(self, kind: str, artifact_id: str, name: str) -> Path:
        """Returns a local path of one file of an artifact, fetched once per node and verified."""
        return self.artifacts.fetch(self.manifest(kind, artifact_id), name, self._cache)

    def split(self, data_id: str, name: str) -> Split:
        """Returns the `train` or `test` images of a data artifact, memory-mapped."""
        key = (data_id, name)
        if key not in self._splits:
            self._splits[key] = open_split(self.file("data", data_id, f"{name}.arrow"))
        return self._splits[key]

    def num_classes(self, data_id: str) -> int:
        """Returns the number of classes of a data artifact's task."""
        return int(self.manifest("data", data_id).metrics["num_classes"])

    def base_tensors(self, base_id: str) -> TensorFile:
        """Returns the base's tensors, memory-mapped."""
        return TensorFile(self.file("base", base_id, BASE_FILE))

    def expert_tensors(self, expert_id: str) -> TensorFile:
        """Returns the tensors of an expert's backbone, memory-mapped."""
        path = self.file("expert", expert_id, EXPERT_FILE)
        return TensorFile(path, prefix=BACKBONE_PREFIX)

    def expert_head(self, expert_id: str) -> nn.Linear:
        """Returns an expert's classifier on the device."""
        path = self.file("expert", expert_id, EXPERT_FILE)
        tensors = dict(TensorFile(path, prefix=HEAD_PREFIX))
        num_classes, num_features = tensors["weight"].shape
        head = nn.Linear(num_features, num_classes)
        head.load_state_dict(tensors)
        return head.to(self.device)

    def base_backbone(self, base_id: str) -> Backbone:
        """Returns the process's one backbone of a base, its weights set back to the base's.

        The module is shared: a job owns it until the next call.
        """
        if base_id not in self._backbones:
            spec = self.manifest("base", base_id).spec
            self._backbones[base_id] = create_backbone(
                str(spec["model"]), seed=0, device=self.device
            )
        backbone = self._backbones[base_id]
        backbone.module.load_state_dict(dict(self.base_tensors(base_id)))
        return backbone

    def base_features(self, base_id: str, data_id: str) -> Tensor:
        """Returns the base's features of a task's test images; computed once a process.

        Sets the shared backbone back to the base when it has to compute.

        Shapes:
            returns: (test images, features).
        """
        key = (base_id, data_id)
        if key not in self._base_features:
            backbone = self.base_backbone(base_id)
            self._base_features[key] = features_of(
                backbone.module,
                split=self.split(data_id, "test"),
                normalization=backbone.normalization,
                device=self.device,
            )
        return self._base_features[key]
