"""What a worker process keeps warm between jobs: store, caches, backbone, images."""

import hashlib
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eval.evaluate import features_of
from eval.images.shards import open_split, shard_names
from eval.images.split import Split
from workers.artifacts.artifacts import Artifacts
from workers.artifacts.manifests import Manifest
from workers.artifacts.node_cache import NodeCache
from workers.models.backbones import Backbone, create_backbone
from workers.models.heads import head_of
from workers.models.linear_probe import fit_probe
from workers.models.tangent import Tangent
from workers.models.tensor_files import TensorFile
from workers.sampling.batches import training_subset
from workers.specs.training import ExpertSpec
from workers.store.opening import open_store

BASE_FILE = "backbone.safetensors"
EXPERT_FILE = "expert.safetensors"
HEAD_FILE = "head.safetensors"
BACKBONE_PREFIX = "backbone."
HEAD_PREFIX = "head."


NUM_MANIFESTS = 1024
"""Manifests that a process keeps, of the last used: some 10 kB each with the loss curve."""
BACKBONE_BYTES = 1 << 30
"""Most that backbones of several models take on the device, 1 GB; the one in use is always kept."""
FEATURE_BYTES = 1 << 28
"""Most that a process keeps of the base's features, on the device: 256 MB; the same of experts'."""


IMAGES_AT_ONCE = 1024
"""Training images that are copied out of their file at a time: 154 MB at 224 pixels."""
NUM_PROBES = 64
"""Linear probes that a process keeps, of the last used: 0.4 MB for 50 classes of 2,048 features."""


class MissingArtifactError(Exception):
    """An input that a job needs is not in the store: not committed, or committed without files."""


class Workspace:
    """Owns one process's connection to the store and what it has loaded from it.

    Backbones are built once a model, for all bases of it, and reloaded in place; images stay
    memory-mapped, which costs addresses and no memory; manifests, being immutable, are read once. A
    process serves one study: what grows with the number of trials, of bases or of images, is
    bounded here.
    """

    def __init__(
        self,
        store_url: str,
        *,
        cache_root: Path,
        device: torch.device,
        cache_bytes: int | None = None,
    ) -> None:
        """Opens the store; nothing is read yet.

        Args:
            store_url: See `workers.store.opening.open_store`.
            cache_root: The node's cache of files, shared by its processes.
            device: Where models run.
            cache_bytes: What the node's cache may take; None for no limit.
        """
        self.device = device
        self.artifacts = Artifacts(open_store(store_url))
        self._cache = NodeCache(cache_root, max_bytes=cache_bytes)
        self._manifests: dict[tuple[str, str], Manifest] = {}
        self._backbones: dict[str, Backbone] = {}
        self._splits: dict[tuple[str, str], Split] = {}
        self._base_features: dict[tuple[str, str], Tensor] = {}
        self._expert_features: dict[str, Tensor] = {}
        self._probes: dict[tuple[object, ...], nn.Linear] = {}

    def manifest(self, kind: str, artifact_id: str) -> Manifest:
        """Returns a committed artifact's manifest.

        Raises:
            MissingArtifactError: It is not committed.
        """
        known = self._manifests.get((kind, artifact_id))
        found = known or self.artifacts.find(kind, artifact_id)
        if found is None:
            raise MissingArtifactError(
                f"{kind} {artifact_id} is not committed in the store {self.artifacts.store.url}"
            )
        self.remember(found)
        return found

    def remember(self, manifest: Manifest) -> None:
        """Keeps a manifest that this process has just read or committed."""
        key = (manifest.kind, manifest.id)
        self._manifests.pop(key, None)
        self._manifests[key] = manifest  # the last used stands last
        if len(self._manifests) > NUM_MANIFESTS:
            del self._manifests[next(iter(self._manifests))]

    def file(self, kind: str, artifact_id: str, name: str) -> Path:
        """Returns a local path of one file of an artifact, fetched once per node and verified.

        Raises:
            MissingArtifactError: It is not committed, or without files, as a diverged expert whose
                weights are not finite.
        """
        manifest = self.manifest(kind, artifact_id)
        if not manifest.files:
            raise MissingArtifactError(
                f"{kind} {artifact_id} has no files: its outcome is {manifest.outcome!r}"
            )
        return self.artifacts.fetch(manifest, name, self._cache)

    def split(self, data_id: str, name: str) -> Split:
        """Returns the `train` or `test` images of a data artifact, memory-mapped.

        Raises:
            MissingArtifactError: They are not committed.
        """
        key = (data_id, name)
        if key not in self._splits:
            files = (entry.name for entry in self.manifest("data", data_id).files)
            shards = shard_names(files, split=name)
            self._splits[key] = open_split([self.file("data", data_id, each) for each in shards])
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
        return head_of(TensorFile(path, prefix=HEAD_PREFIX)).to(self.device)

    def zero_shot_head(self, head_id: str) -> nn.Linear:
        """Returns a zero-shot classifier on the device."""
        return head_of(TensorFile(self.file("head", head_id, HEAD_FILE))).to(self.device)

    def base_backbone(self, base_id: str, *, linearised: bool = False) -> Backbone:
        """Returns the process's one backbone of a base's model, its weights set to the base's.

        The module is shared: a job owns it until the next call.
        """
        backbone = self._backbone(base_id, linearised=linearised)
        backbone.module.load_state_dict(dict(self.base_tensors(base_id)))
        backbone.module.zero_grad(set_to_none=True)  # the last trial's, as large as the weights
        return backbone

    def base_features(self, base_id: str, data_id: str) -> Tensor:
        """Returns the base's features of a task's test images; computed once a process.

        Sets the shared backbone back to the base when it has to compute. Beyond `FEATURE_BYTES` it
        forgets those of other bases, then computes every time: trials go through the tasks in
        turn, where forgetting the longest unused would never find anything kept.

        Shapes:
            returns: (test images, features).
        """
        key = (base_id, data_id)
        if key in self._base_features:
            return self._base_features[key]
        backbone = self.base_backbone(base_id)
        features = features_of(
            backbone.module,
            split=self.split(data_id, "test"),
            normalization=backbone.normalization,
            device=self.device,
        )
        if not self._has_room(features):
            mine = {each: kept for each, kept in self._base_features.items() if each[0] == base_id}
            self._base_features = mine
        if self._has_room(features):
            self._base_features[key] = features
        return features

    def linear_probe(self, expert: ExpertSpec) -> nn.Linear:
        """Returns a copy of the classifier fitted to the base's features of an expert's images.

        It depends on the base, the set of training images and the penalty: experts that differ in
        nothing of it share one fit. Sets the shared backbone back to the base to compute it.
        """
        train = self.split(expert.data_id, "train")
        trained = expert.hyperparameters
        kept = training_subset(len(train), data_ratio=trained.data_ratio, seed=trained.seed)
        kept.sort()
        digest = hashlib.sha256(kept.tobytes()).digest()
        key = (expert.base_id, expert.data_id, expert.constants.probe_l2, digest)
        probe = self._probes.pop(key, None) or self._fit_probe(expert, kept=kept)
        self._probes[key] = probe  # the last used stands last
        if len(self._probes) > NUM_PROBES:
            del self._probes[next(iter(self._probes))]
        return deepcopy(probe)

    def _fit_probe(self, expert: ExpertSpec, *, kept: NDArray[np.int64]) -> nn.Linear:
        train = self.split(expert.data_id, "train")
        backbone = self.base_backbone(expert.base_id)
        starts = range(0, len(kept), IMAGES_AT_ONCE)
        features = [
            features_of(
                backbone.module,
                split=train.take(kept[start : start + IMAGES_AT_ONCE]),
                normalization=backbone.normalization,
                device=self.device,
            )
            for start in starts
        ]
        return fit_probe(
            torch.cat(features),
            labels=train.labels[kept],
            num_classes=self.num_classes(expert.data_id),
            l2=expert.constants.probe_l2,
        )

    def _has_room(self, features: Tensor) -> bool:
        kept_bytes = sum(kept.nbytes for kept in self._base_features.values())
        return kept_bytes + features.nbytes <= FEATURE_BYTES

    def expert_features(self, expert: ExpertSpec) -> Tensor:
        """Returns an expert's features of its own task's test images.

        Leaves the shared backbone as it is. Keeps `FEATURE_BYTES` of those used last: merges that
        share experts follow one another.

        Shapes:
            returns: (test images, features).
        """
        features = self._expert_features.pop(expert.id, None)
        if features is None:
            features = self._features_of_expert(expert)
        self._expert_features[expert.id] = features
        while sum(kept.nbytes for kept in self._expert_features.values()) > FEATURE_BYTES:
            del self._expert_features[next(iter(self._expert_features))]
        return features

    def _features_of_expert(self, expert: ExpertSpec) -> Tensor:
        linearised = expert.hyperparameters.linearised
        backbone = self._backbone(expert.base_id, linearised=linearised)
        module = backbone.module
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        module.load_state_dict(dict(self.expert_tensors(expert.id)))
        features = features_of(
            backbone.model,
            split=self.split(expert.data_id, "test"),
            normalization=backbone.normalization,
            device=self.device,
        )
        module.load_state_dict(before)
        return features

    def _backbone(self, base_id: str, *, linearised: bool) -> Backbone:
        """Returns the process's one backbone of a base's model, with whatever weights it has.

        Those that were not used for longest are forgotten beyond `BACKBONE_BYTES`.
        """
        model = str(self.manifest("base", base_id).spec["model"])
        backbone = self._backbones.pop(model, None)
        if backbone is None:
            backbone = create_backbone(model, seed=0, device=self.device)
        self._backbones[model] = backbone
        while len(self._backbones) > 1 and _num_bytes(self._backbones.values()) > BACKBONE_BYTES:
            del self._backbones[next(iter(self._backbones))]
        if not linearised:
            return backbone
        expansion = Tangent(backbone.module, base=self.base_tensors(base_id))
        return replace(backbone, expansion=expansion)


def _num_bytes(backbones: Iterable[Backbone]) -> int:
    modules = (backbone.module for backbone in backbones)
    return sum(tensor.nbytes for module in modules for tensor in module.state_dict().values())
