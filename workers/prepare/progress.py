"""The progress that a worker reports to the driver while it prepares a task's images."""

from dataclasses import dataclass

from workers.artifacts.manifests import Manifest


@dataclass(frozen=True, kw_only=True)
class PreparationProgress:
    """The state of preparing one task's images."""

    task: str
    num_images: int
    """Images to prepare, in both splits together."""
    num_done: int
    """Images decoded so far, plus images in shards that an interrupted preparation left."""
    images_per_s: float
    """Images that this worker decodes per second, from the first image on; 0 before."""
    committed: Manifest | None = None
    """The images' manifest in the last report; None in all reports before."""
