"""The state that a worker process keeps between jobs: store, caches, backbones and images."""

import hashlib
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eval.evaluate import features_of
from eval.images.shards import open_split, shard_names
from eval.images.split import Split
from merge.catalogue import MethodCard, parse_params
from merge.merge import coverage
from merge.parameters.method_params import MethodParams
from merge.table import functions_of
from workers.artifacts.artifacts import Artifacts
from workers.artifacts.manifests import Manifest
from workers.artifacts.node_cache import NodeCache
from workers.lru_cache import LruCache
from workers.models.backbones import Backbone, create_backbone
from workers.models.heads import head_of
from workers.models.linear_probe import fit_probe
from workers.models.tangent import Tangent
from workers.models.tensor_files import TensorFile
from workers.models.tied_weights import load_state, own_state
from workers.own_methods.loading import load_stored
from workers.sampling.batches import training_subset
from workers.specs.data import EvaluateOn
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec
from workers.store.opening import open_store

if TYPE_CHECKING:
    from workers.specs.own_method import OwnMethodSpec

BASE_FILE = "backbone.safetensors"
EXPERT_FILE = "expert.safetensors"
HEAD_FILE = "head.safetensors"
BACKBONE_PREFIX = "backbone."
HEAD_PREFIX = "head."

MAX_MANIFESTS = 1024
"""Manifests that a process keeps; a manifest with a loss curve takes about 10 kB."""
MAX_BACKBONE_BYTES = 1 << 30
"""Device memory for backbones of several models, 1 GB."""
MAX_FEATURE_BYTES = 1 << 28
"""Device memory for features of bases, 256 MB; as much for experts, and for measurements."""
MAX_TENSOR_FILES = 128
"""Mapped files that a process keeps. Opening one again takes 5 ms, mostly to read its header, and
consecutive merges share most of their experts."""
MAX_PROBES = 64
"""Linear probes that a process keeps; a probe of 50 classes and 2,048 features takes 0.4 MB."""
PROBE_IMAGES_AT_ONCE = 1024
"""Training images of a linear probe that are in memory at a time: 154 MB at 224 pixels."""


class MissingArtifactError(Exception):
    """An input of a job is not committed, or was committed without files."""


class Workspace:
    """One process's connection to the store, and the objects that it has loaded from the store.

    A backbone is built once for each model and gets the weights of each base in place. Images stay
    memory-mapped. Manifests never change, so each is read once. A process serves one study; caches
    whose size depends on the number of trials, bases or images have a limit.
    """

    def __init__(
        self,
        store_url: str,
        *,
        cache_root: Path,
        device: torch.device,
        cache_bytes: int | None = None,
    ) -> None:
        """Opens the store, without a request to it.

        Args:
            store_url: See `workers.store.opening.open_store`.
            cache_root: Directory of the node's cache, which its processes share.
            device: Device on which models run.
            cache_bytes: Size limit of the node's cache; None for no limit.
        """
        self.device = device
        self.artifacts = Artifacts(open_store(store_url))
        self._node_cache = NodeCache(cache_root, max_bytes=cache_bytes)
        self._manifests = LruCache[tuple[str, str], Manifest](max_size=MAX_MANIFESTS)
        self._backbones = LruCache[tuple[str, int | None], Backbone](
            max_size=MAX_BACKBONE_BYTES, size_of=_backbone_bytes
        )
        self._tensor_files = LruCache[tuple[Path, str], TensorFile](max_size=MAX_TENSOR_FILES)
        self._splits: dict[tuple[str, str], Split] = {}
        self._base_features: dict[tuple[str, str, str], Tensor] = {}
        self._expert_features = LruCache[tuple[str, str], Tensor](
            max_size=MAX_FEATURE_BYTES, size_of=_tensor_bytes
        )
        self.measured_features = LruCache[tuple[object, ...], Tensor](
            max_size=MAX_FEATURE_BYTES, size_of=_tensor_bytes
        )
        self._probes = LruCache[tuple[object, ...], nn.Linear](max_size=MAX_PROBES)
        self._own_methods: dict[OwnMethodSpec, MethodCard] = {}
        self._coverages: dict[tuple[str, object], float] = {}

    def manifest(self, kind: str, artifact_id: str) -> Manifest:
        """Returns a committed artifact's manifest.

        Raises:
            MissingArtifactError: The artifact is not committed.
        """

        def find() -> Manifest:
            found = self.artifacts.find(kind, artifact_id)
            if found is None:
                raise MissingArtifactError(
                    f"{kind} {artifact_id} is not committed in the store {self.artifacts.store.url}"
                )
            return found

        return self._manifests.get_or_make((kind, artifact_id), find)

    def remember(self, manifest: Manifest) -> None:
        """Adds a manifest that this process has just committed to the cache of manifests."""
        self._manifests.put((manifest.kind, manifest.id), manifest)

    def file(self, kind: str, artifact_id: str, name: str) -> Path:
        """Returns a local path of a file of an artifact; the node fetches and verifies it once.

        Raises:
            MissingArtifactError: The artifact is not committed, or has no files, like a diverged
                expert whose weights are not finite.
        """
        manifest = self.manifest(kind, artifact_id)
        if not manifest.files:
            raise MissingArtifactError(
                f"{kind} {artifact_id} has no files: its outcome is {manifest.outcome!r}"
            )
        return self.artifacts.fetch(manifest, name, self._node_cache)

    def split(self, data_id: str, name: str) -> Split:
        """Returns the `train`, `test` or `validation` images of a data artifact, memory-mapped.

        Raises:
            MissingArtifactError: The data artifact is not committed.
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

    def method_params(self, spec: MergeSpec) -> MethodParams:
        """Returns the parameters of a merge, whose class selects the method.

        Code of users is loaded once for each method of the study.

        Raises:
            OwnMethodError: This node lacks the method's package, or the store its file.
        """
        if spec.own_method is None:
            return spec.parsed_params()
        if spec.own_method not in self._own_methods:
            card = load_stored(spec.own_method, store=self.artifacts.store)
            self._own_methods[spec.own_method] = card
        return parse_params(spec.method, spec.params, card=self._own_methods[spec.own_method])

    def coverage(self, spec: MergeSpec) -> float:
        """Returns the share of the base's weights that a merge's method does not just average.

        Units: fraction in [0, 1].
        """
        params = self.method_params(spec)
        key = (spec.base_id, functions_of(params).covers)
        if key not in self._coverages:
            self._coverages[key] = coverage(self.base_tensors(spec.base_id), params=params)
        return self._coverages[key]

    def base_tensors(self, base_id: str) -> TensorFile:
        """Returns a base's tensors, memory-mapped."""
        return self._tensors("base", base_id, BASE_FILE)

    def expert_tensors(self, expert_id: str) -> TensorFile:
        """Returns the tensors of an expert's backbone, memory-mapped."""
        return self._tensors("expert", expert_id, EXPERT_FILE, prefix=BACKBONE_PREFIX)

    def expert_head(self, expert_id: str) -> nn.Linear:
        """Returns an expert's classifier on the device."""
        tensors = self._tensors("expert", expert_id, EXPERT_FILE, prefix=HEAD_PREFIX)
        return head_of(tensors).to(self.device)

    def zero_shot_head(self, head_id: str) -> nn.Linear:
        """Returns a zero-shot classifier on the device."""
        return head_of(self._tensors("head", head_id, HEAD_FILE)).to(self.device)

    def _tensors(self, kind: str, artifact_id: str, name: str, *, prefix: str = "") -> TensorFile:
        path = self.file(kind, artifact_id, name)
        return self._tensor_files.get_or_make(
            (path, prefix), lambda: TensorFile(path, prefix=prefix)
        )

    def base_backbone(self, base_id: str, *, linearised: bool = False) -> Backbone:
        """Returns the process's backbone of the base's model, with the base's weights.

        The process has one module for each model and size of images that a model is built for. A
        job may change its weights until the next call of this method.
        """
        backbone = self._backbone(base_id, linearised=linearised)
        load_state(backbone.module, self.base_tensors(base_id))
        # Frees the gradients of the previous trial, which take as much memory as the weights.
        backbone.module.zero_grad(set_to_none=True)
        return backbone

    def base_features(self, base_id: str, data_id: str, *, split: EvaluateOn = "test") -> Tensor:
        """Returns the base's features of a task's test or validation images.

        Resets the shared backbone to the base if it has to compute the features. Features that do
        not fit into `MAX_FEATURE_BYTES` evict the features of other bases. If they still do not
        fit, every call computes them again. An LRU cache would be useless here once it is too
        small: trials visit the tasks in turn, so it would always evict the features needed next.

        Shapes:
            returns: (images, features).
        """
        key = (base_id, data_id, split)
        if key in self._base_features:
            return self._base_features[key]
        backbone = self.base_backbone(base_id)
        features = self._features(backbone, split=self.split(data_id, split))
        if not self._has_room(features):
            of_this_base = {
                each: kept for each, kept in self._base_features.items() if each[0] == base_id
            }
            self._base_features = of_this_base
        if self._has_room(features):
            self._base_features[key] = features
        return features

    def _has_room(self, features: Tensor) -> bool:
        kept_bytes = sum(kept.nbytes for kept in self._base_features.values())
        return kept_bytes + features.nbytes <= MAX_FEATURE_BYTES

    def expert_features(self, expert: ExpertSpec, *, split: EvaluateOn = "test") -> Tensor:
        """Returns an expert's features of its own task's test or validation images.

        The weights of the shared backbone are the same afterwards. The features are kept, because
        consecutive merges often share experts.

        Shapes:
            returns: (images, features).
        """
        return self._expert_features.get_or_make(
            (expert.id, split), lambda: self._compute_expert_features(expert, split=split)
        )

    def _compute_expert_features(self, expert: ExpertSpec, *, split: EvaluateOn) -> Tensor:
        linearised = expert.hyperparameters.linearised
        backbone = self._backbone(expert.base_id, linearised=linearised)
        module = backbone.module
        before = {name: tensor.clone() for name, tensor in own_state(module).items()}
        load_state(module, self.expert_tensors(expert.id))
        features = self._features(backbone, split=self.split(expert.data_id, split))
        load_state(module, before)
        return features

    def linear_probe(self, expert: ExpertSpec) -> nn.Linear:
        """Returns a copy of the classifier that is fitted to the base's features.

        Experts with the same base, training images and penalty share one fit. Resets the shared
        backbone to the base if it has to compute features.
        """
        trained = expert.hyperparameters
        kept = training_subset(
            len(self.split(expert.data_id, "train")),
            data_ratio=trained.data_ratio,
            seed=trained.seed,
        )
        return self.probe(expert.base_id, expert.data_id, l2=expert.constants.probe_l2, kept=kept)

    def probe(self, base_id: str, data_id: str, *, l2: float, kept: NDArray[np.int64]) -> nn.Linear:
        """Returns a copy of the classifier that is fitted to a base's features of some images.

        Args:
            base_id: The base; the shared backbone is reset to it if features are computed.
            data_id: The task's images.
            l2: Penalty.
            kept: Positions of training images, (num,), in any order.
        """
        kept = np.sort(kept)
        key = (base_id, data_id, l2, hashlib.sha256(kept.tobytes()).digest())

        def fit() -> nn.Linear:
            return self._fit_probe(base_id, data_id, l2=l2, kept=kept)

        return deepcopy(self._probes.get_or_make(key, fit))

    def _fit_probe(
        self, base_id: str, data_id: str, *, l2: float, kept: NDArray[np.int64]
    ) -> nn.Linear:
        train = self.split(data_id, "train")
        backbone = self.base_backbone(base_id)
        features = [
            self._features(backbone, split=train.take(kept[start : start + PROBE_IMAGES_AT_ONCE]))
            for start in range(0, len(kept), PROBE_IMAGES_AT_ONCE)
        ]
        return fit_probe(
            torch.cat(features),
            labels=train.labels[kept],
            num_classes=self.num_classes(data_id),
            l2=l2,
        )

    def _features(self, backbone: Backbone, *, split: Split) -> Tensor:
        return features_of(
            backbone.model,
            split=split,
            normalization=backbone.normalization,
            device=self.device,
        )

    def _backbone(self, base_id: str, *, linearised: bool) -> Backbone:
        """Returns the process's backbone of the base's model, with the weights that it has now."""
        spec = self.manifest("base", base_id).spec
        model, image_size = str(spec["model"]), spec.get("image_size")
        backbone = self._backbones.get_or_make(
            (model, image_size),
            lambda: create_backbone(model, seed=0, device=self.device, image_size=image_size),
        )
        if not linearised:
            return backbone
        expansion = Tangent(backbone.module, base=self.base_tensors(base_id))
        return replace(backbone, expansion=expansion)


def _backbone_bytes(backbone: Backbone) -> int:
    return sum(tensor.nbytes for tensor in own_state(backbone.module).values())


def _tensor_bytes(tensor: Tensor) -> int:
    return tensor.nbytes
