"""Checkpoints that lie in object storage, named by URL and digest.

    s3://bucket/key.safetensors[?endpoint_url=http://host:port]#sha256=<64 hexadecimal digits>

Servers and credentials are those of stores: from the environment, never from the URL. The digest
stands in the URL so that a plan, which is made again and again, reads nothing; who does not know it
is told by the first plan, which reads the object once.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from workers.models.weights import SUFFIXES, WeightsError, sha256_of
from workers.store.opening import open_store
from workers.store.protocol import PATIENCE_S, NotFoundError, StoreError

_FORM = "s3://bucket/key.safetensors#sha256=<64 hexadecimal digits>"
_DIGEST = re.compile(r"sha256=([0-9a-f]{64})")


@dataclass(frozen=True, kw_only=True)
class RemoteWeights:
    """A checkpoint in a bucket, as its URL says it."""

    store_url: str
    """The folder that it lies in, as the URL of a store."""
    name: str
    """Its name in that folder."""
    digest: str | None
    """The sha256 that it must have; None where the URL has none."""

    @property
    def shown(self) -> str:
        """How messages name it."""
        return f"{self.store_url.partition('?')[0].rstrip('/')}/{self.name}"

    @contextmanager
    def downloaded(self, *, patience_s: float = PATIENCE_S) -> Iterator[Path]:
        """Yields a local copy that is there as long as the context.

        Args:
            patience_s: For how long a request that meets a passing fault is sent again.

        Raises:
            WeightsError: There is no such object, or it cannot be read.
        """
        with tempfile.TemporaryDirectory(prefix="mergesweep-weights-") as scratch:
            path = Path(scratch) / self.name
            try:
                open_store(self.store_url, patience_s=patience_s).download(self.name, path)
            except NotFoundError as error:
                raise WeightsError(f"{self.shown}: the bucket has no such object") from error
            except StoreError as error:
                raise WeightsError(f"{self.shown}: {error}") from error
            yield path


def is_remote(weights: str) -> bool:
    """Tells whether a study's weights are a URL and no path or keyword."""
    return "://" in weights


def parse_remote(weights: str) -> RemoteWeights:
    """Reads a URL of weights; asks nothing of the bucket.

    Raises:
        WeightsError: Another scheme, no object, another kind of file, or a digest that is none.
    """
    url, _, fragment = weights.partition("#")
    parts = urlsplit(url)
    folder, _, name = parts.path.rpartition("/")
    if parts.scheme != "s3" or not parts.netloc or not name:
        raise WeightsError(f"not the URL of an object: give {_FORM}")
    if Path(name).suffix not in SUFFIXES:
        raise WeightsError(f"{name}: a checkpoint ends in {', '.join(SUFFIXES)}")
    match = _DIGEST.fullmatch(fragment)
    if fragment and match is None:
        raise WeightsError(f"{fragment!r} is no digest: give {_FORM}")
    query = f"?{parts.query}" if parts.query else ""
    store_url = f"s3://{parts.netloc}{folder}{query}"
    try:
        open_store(store_url)
    except StoreError as error:
        raise WeightsError(str(error)) from error
    return RemoteWeights(store_url=store_url, name=name, digest=match[1] if match else None)


def read_digest(weights: RemoteWeights, *, patience_s: float) -> str:
    """Returns the sha256 of the object as it is now, which is read whole.

    Raises:
        WeightsError: There is no such object, or it cannot be read.
    """
    with weights.downloaded(patience_s=patience_s) as path:
        return sha256_of(path)
