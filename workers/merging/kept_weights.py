"""The weights of a merge as part of its artifact, for entries of a study with `keep: merged`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from workers.models.backbones import Backbone
from workers.models.tensor_files import TensorFile, write_tensors
from workers.models.tied_weights import load_state
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec
from workers.workspace import Workspace

_SHARED = "merged.safetensors"


@dataclass(frozen=True, kw_only=True)
class KeptWeights:
    """The files of a merge that is being made; without `folder` none is written."""

    spec: MergeSpec
    """The merge with everything chosen."""
    merge_id: str
    """The id of the artifact, which is that of the merge before the choice."""
    folder: Path | None
    files: dict[str, Path] = field(default_factory=dict)
    """Local paths by name, once written."""

    def add(self, tensors: Mapping[str, Tensor], *, experts: Sequence[ExpertSpec]) -> None:
        """Writes a model of the merge, before it is evaluated.

        Args:
            tensors: The backbone, named as in `own_state`.
            experts: The experts that the model serves.
        """
        if self.folder is None:
            return
        name = _file_name(self.spec, experts=experts)
        self.files[name] = self.folder / name
        write_tensors(self.files[name], tensors, about={"id": self.merge_id})


def kept_models(
    spec: MergeSpec, *, merge_id: str, workspace: Workspace
) -> Iterator[tuple[Backbone, tuple[ExpertSpec, ...]]]:
    """Yields the merged models, as `merged_models` does, from the weights that a merge keeps.

    Args:
        spec: The merge with everything chosen.
        merge_id: The id of the artifact, which is that of the merge before the choice.
        workspace: The process's workspace.

    Raises:
        MissingArtifactError: The merge is not committed.
    """
    served = [(*spec.experts, *spec.held_out)]
    if spec.card.is_per_task:
        served = [
            *((expert,) for expert in spec.experts),
            *([spec.held_out] if spec.held_out else []),
        ]
    for experts in served:
        backbone = workspace.base_backbone(spec.base_id, linearised=spec.linearised)
        path = workspace.file("merge", merge_id, _file_name(spec, experts=experts))
        load_state(backbone.module, TensorFile(path))
        yield backbone, experts


def _file_name(spec: MergeSpec, *, experts: Sequence[ExpertSpec]) -> str:
    """Returns the name of a model's file: with the task's name if the model is of one task."""
    is_of_task = spec.card.is_per_task and experts[0] in spec.experts
    return f"merged.{experts[0].task}.safetensors" if is_of_task else _SHARED
