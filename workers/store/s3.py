"""A store in an S3 bucket, on AWS or any server with conditional puts. The home of boto3."""

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from workers.store.atomic import replacing
from workers.store.protocol import (
    Entry,
    StoreError,
    checked_key,
    checked_prefix,
)
from workers.store.s3_errors import code_of, num_retries, translated

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_CONNECT_TIMEOUT_S = 5
_READ_TIMEOUT_S = 60
_NUM_CONNECTIONS = 32
_NUM_PARTS_AT_ONCE = 8
# Below it one request is faster than the four of the smallest multipart upload.
_MULTIPART_THRESHOLD_BYTES = 16 << 20
_NUM_KEYS_PER_DELETE = 1000  # the most that S3 takes
# Between attempts whose conditions met another writer's in flight; 6 s in all.
_CONFLICT_DELAYS_S = (0.1, 0.2, 0.4, 0.8, 1.5, 3.0)
_NUM_BODY_ATTEMPTS = 4
# An answer that began well and broke off; the client's own retries end where a body begins.
_BROKEN_BODY = (IncompleteReadError, ReadTimeoutError, ResponseStreamingError)


class S3Store:
    """Keeps every object under a prefix of a bucket. Meets `Store`'s contract.

    A process killed during a multipart upload leaves parts that no listing shows and that are paid
    for: give the bucket a lifecycle rule that aborts incomplete uploads.
    """

    def __init__(
        self,
        bucket: str,
        *,
        prefix: str = "",
        endpoint_url: str | None = None,
        num_attempts: int = 5,
        multipart_threshold_bytes: int = _MULTIPART_THRESHOLD_BYTES,
    ) -> None:
        """Connects to nothing yet.

        Args:
            bucket: An existing bucket.
            prefix: What all keys are below, without slashes at its ends; empty for the bucket.
            endpoint_url: The server; None for AWS.
            num_attempts: How often a request is sent before its failure is final.
            multipart_threshold_bytes: From which size files travel in parallel parts of this size.
        """
        self._bucket = bucket
        self._root = f"{prefix}/" if prefix else ""
        query = f"?endpoint_url={endpoint_url}" if endpoint_url else ""
        self._url = f"s3://{bucket}/{prefix}".rstrip("/") + query
        with translated(url=self._url, key=""):
            self._client = _connect(endpoint_url, num_attempts=num_attempts)
        self._transfer = TransferConfig(
            multipart_threshold=multipart_threshold_bytes,
            multipart_chunksize=multipart_threshold_bytes,
            max_concurrency=_NUM_PARTS_AT_ONCE,
        )
        self._lock = threading.Lock()
        self._num_requests = 0
        self._client.meta.events.register("before-send.s3", self._count)

    @property
    def url(self) -> str:
        """Bucket, prefix and server, so that a worker on another machine opens the same store."""
        return self._url

    @property
    def num_requests(self) -> int:
        """How many HTTP requests were sent: every part, page and retry."""
        return self._num_requests

    def get(self, key: str) -> bytes:
        """Returns an object's content."""
        with self._translated(key) as name:
            for _ in range(_NUM_BODY_ATTEMPTS - 1):
                body = self._client.get_object(Bucket=self._bucket, Key=name)["Body"]
                try:
                    return body.read()
                except _BROKEN_BODY:
                    continue
            return self._client.get_object(Bucket=self._bucket, Key=name)["Body"].read()

    def put(self, key: str, content: bytes) -> None:
        """Writes an object, in place of one that has the key already."""
        with self._translated(key) as name:
            self._client.put_object(Bucket=self._bucket, Key=name, Body=content)

    def put_if_absent(self, key: str, content: bytes) -> bool:
        """Writes an object unless its key is taken; returns whether it did."""
        with self._translated(key) as name:
            for delay_s in (*_CONFLICT_DELAYS_S, None):
                try:
                    self._client.put_object(
                        Bucket=self._bucket, Key=name, Body=content, IfNoneMatch="*"
                    )
                except ClientError as error:
                    if code_of(error) == "PreconditionFailed":
                        # A repeated request may have met the object that its first sending wrote.
                        return num_retries(error) > 0 and self.get(key) == content
                    if code_of(error) != "ConditionalRequestConflict" or delay_s is None:
                        raise
                    time.sleep(delay_s * random.uniform(0.5, 1.5))  # noqa: S311 spreads the racers
                else:
                    return True
        raise AssertionError

    def upload(self, key: str, path: Path) -> None:
        """Writes an object from a file, in parallel parts where it is large."""
        with path.open("rb") as content, self._translated(key) as name:
            self._client.upload_fileobj(content, self._bucket, name, Config=self._transfer)

    def download(self, key: str, path: Path) -> None:
        """Writes an object's content to a file, in parallel ranges where it is large."""
        with (
            replacing(path) as temporary,
            temporary.open("wb") as copy,
            self._translated(key) as name,
        ):
            self._client.download_fileobj(self._bucket, name, copy, Config=self._transfer)

    def list(self, prefix: str) -> Iterator[Entry]:
        """Yields the objects whose keys begin with a prefix, ordered by key."""
        with self._translated(prefix, check=checked_prefix) as name:
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=name
            )
            found = [
                Entry(key=item["Key"].removeprefix(self._root), size_bytes=item["Size"])
                for page in pages
                for item in page.get("Contents", [])
                if not item["Key"].endswith("/")  # a console's stand-in for a directory
            ]
        # Some servers list as a directory tree does, `a/b` before `a-b`.
        yield from sorted(found, key=lambda entry: entry.key)

    def delete(self, keys: Iterable[str]) -> None:
        """Removes objects, a thousand with one request."""
        names = [self._root + checked_key(key) for key in keys]
        for start in range(0, len(names), _NUM_KEYS_PER_DELETE):
            batch = names[start : start + _NUM_KEYS_PER_DELETE]
            with self._translated(batch[0].removeprefix(self._root)):
                answer = self._client.delete_objects(
                    Bucket=self._bucket,
                    Delete={"Objects": [{"Key": name} for name in batch], "Quiet": True},
                )
            if errors := answer.get("Errors"):
                first = "; ".join(f"{e.get('Key')}: {e.get('Message')}" for e in errors[:5])
                raise StoreError(f"store {self._url}: {len(errors)} objects not deleted: {first}")

    def local_path(self, key: str) -> None:
        """Returns None: no object is a file of this machine."""
        checked_key(key)

    @contextmanager
    def _translated(self, key: str, *, check: Callable[[str], str] = checked_key) -> Iterator[str]:
        name = self._root + check(key)
        with translated(url=self._url, key=key):
            yield name

    def _count(self, **_: object) -> None:
        with self._lock:
            self._num_requests += 1


def _connect(endpoint_url: str | None, *, num_attempts: int) -> "S3Client":
    config = Config(
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=_READ_TIMEOUT_S,
        max_pool_connections=_NUM_CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": num_attempts},
    )
    if endpoint_url is not None:
        # Other servers seldom answer at <bucket>.<host>, and some refuse trailing checksums (Ceph:
        # HTTP 411); every file's sha256 is in its manifest anyway.
        server = Config(
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        config = config.merge(server)
    return boto3.session.Session().client("s3", endpoint_url=endpoint_url, config=config)
