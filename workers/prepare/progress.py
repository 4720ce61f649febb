"""How far the preparation of a task's images is: what a worker tells the driver."""

from dataclasses import dataclass

from workers.artifacts.manifests import Manifest


@dataclass(frozen=True, kw_only=True)
class PreparationProgress:
    """How far a task's images are."""

    task: str
    num_images: int
    """Of both splits together."""
    num_done: int
    """Decoded, or found in shards that an interrupted preparation has left."""
    images_per_s: float
    """Decoded by this worker in a second, from the first image on; 0 before."""
    committed: Manifest | None = None
    """Of the last report."""
