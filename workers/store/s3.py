"""A store in an S3 bucket, on AWS or on another S3 server."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import botocore.session
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from botocore.utils import parse_timestamp

from workers.store.atomic import replacing
from workers.store.protocol import (
    RETRY_TIMEOUT_S,
    Entry,
    NotFoundError,
    StoreError,
    checked_key,
    checked_prefix,
    is_key,
)
from workers.store.s3_errors import code_of, num_retries, translated, translated_settings
from workers.store.s3_retries import TRANSIENT_CODES, backoff_s, install_retries
from workers.store.s3_unfinished import abort_unfinished, find_unfinished

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# Timeouts of a silent connection; the first also applies to each chunk of a body that is sent.
_CONNECT_TIMEOUT_S = 10.0
_READ_TIMEOUT_S = 30.0
_NUM_CONNECTIONS = 32
_NUM_PARTS_AT_ONCE = 8
# A smaller file is faster with one request than with the four of the smallest multipart upload.
_MULTIPART_THRESHOLD_BYTES = 16 << 20
_NUM_KEYS_PER_DELETE = 1000  # the most that S3 takes
# Attempts of a request that the server answers with a conflict of conditional puts, or without
# deleting all keys of a batch. With the waits between them, all attempts take 6 to 13 s.
_NUM_ANSWERED_ATTEMPTS = 7
_NUM_BODY_ATTEMPTS = 4
# Errors while a body is read, which the client's own retries do not cover.
_BROKEN_BODY = (IncompleteReadError, ReadTimeoutError, ResponseStreamingError)


class S3Store:
    """A `Store` whose objects are below a prefix of a bucket.

    A process that is killed during a multipart upload leaves parts that no listing shows and that
    cost money. `remove_unfinished` deletes them; so does a lifecycle rule of the bucket that aborts
    incomplete uploads.
    """

    def __init__(
        self,
        bucket: str,
        *,
        prefix: str = "",
        endpoint_url: str | None = None,
        retry_timeout_s: float = RETRY_TIMEOUT_S,
        read_timeout_s: float = _READ_TIMEOUT_S,
        multipart_threshold_bytes: int = _MULTIPART_THRESHOLD_BYTES,
    ) -> None:
        """Creates the client, without a request to the server.

        Args:
            bucket: Name of an existing bucket.
            prefix: Prefix of all keys, without slashes at its ends; empty for the whole bucket.
            endpoint_url: URL of the server; None for AWS.
            retry_timeout_s: How long a request that meets a transient fault is repeated.
            read_timeout_s: How long a server may be silent before its answer counts as lost.
            multipart_threshold_bytes: Files of at least this size are transferred in parallel
                parts of this size.
        """
        self._bucket = bucket
        self._root = f"{prefix}/" if prefix else ""
        query = f"?endpoint_url={endpoint_url}" if endpoint_url else ""
        self._url = f"s3://{bucket}/{prefix}".rstrip("/") + query
        with translated_settings(url=self._url):
            self._client = _connect(endpoint_url, read_timeout_s=read_timeout_s)
        install_retries(self._client, retry_timeout_s=retry_timeout_s)
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
        """URL with bucket, prefix and server, so that another machine can open the same store."""
        return self._url

    @property
    def num_requests(self) -> int:
        """Number of HTTP requests so far, with all parts, pages and retries."""
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
        """Writes an object, and replaces an object with the same key."""
        with self._translated(key) as name:
            self._client.put_object(Bucket=self._bucket, Key=name, Body=content)

    def put_if_absent(self, key: str, content: bytes) -> bool:
        """Writes an object if no object has the key; returns whether it did."""
        was_sent_before = False
        with self._translated(key) as name:
            for attempt in range(1, _NUM_ANSWERED_ATTEMPTS + 1):
                try:
                    self._client.put_object(
                        Bucket=self._bucket, Key=name, Body=content, IfNoneMatch="*"
                    )
                except ClientError as error:
                    was_sent_before |= num_retries(error) > 0
                    if code_of(error) == "PreconditionFailed":
                        # A repeated request may find the object that the first request wrote.
                        return was_sent_before and self._holds(key, content)
                    if (
                        code_of(error) != "ConditionalRequestConflict"
                        or attempt == _NUM_ANSWERED_ATTEMPTS
                    ):
                        raise
                    time.sleep(backoff_s(attempt))
                else:
                    return True
        raise AssertionError

    def upload(self, key: str, path: Path) -> None:
        """Writes an object from a file; uploads large files in parallel parts."""
        with path.open("rb") as content, self._translated(key) as name:
            try:
                self._client.upload_fileobj(content, self._bucket, name, Config=self._transfer)
            except ClientError as error:
                if code_of(error) not in {"NoSuchUpload", "NoSuchKey"}:
                    raise
                # Either a request whose answer was lost completed the upload, or garbage collection
                # removed it as unfinished. Both give this error, and uploading again is right.
                content.seek(0)
                self._client.upload_fileobj(content, self._bucket, name, Config=self._transfer)

    def download(self, key: str, path: Path) -> None:
        """Writes an object's content to a file; downloads large objects in parallel ranges."""
        with (
            replacing(path) as temporary,
            temporary.open("wb") as copy,
            self._translated(key) as name,
        ):
            self._client.download_fileobj(self._bucket, name, copy, Config=self._transfer)

    def list(self, prefix: str) -> Iterator[Entry]:
        """Yields the objects whose keys start with a prefix, ordered by key."""
        with self._translated(prefix, check=checked_prefix) as name:
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=name
            )
            entries = (
                Entry(
                    key=item["Key"].removeprefix(self._root),
                    size_bytes=item["Size"],
                    modified_at_s=item["LastModified"].timestamp(),
                    etag=item.get("ETag", "").strip('"'),
                )
                for page in pages
                for item in page.get("Contents", [])
            )
            # Leaves out directory markers of web consoles and temporary objects of servers.
            found = [entry for entry in entries if is_key(entry.key)]
        # Some servers list in the order of a directory tree, `a/b` before `a-b`.
        yield from sorted(found, key=lambda entry: entry.key)

    def expected_etag(self, content: bytes) -> str:
        """Returns the MD5 of an object's content, as AWS and most servers do for a plain put."""
        return hashlib.md5(content, usedforsecurity=False).hexdigest()

    def delete(self, keys: Iterable[str]) -> None:
        """Deletes objects; one request deletes up to a thousand."""
        names = [self._root + checked_key(key) for key in keys]
        for start in range(0, len(names), _NUM_KEYS_PER_DELETE):
            self._delete_batch(names[start : start + _NUM_KEYS_PER_DELETE])

    def remove_unfinished(
        self, prefix: str, *, before_s: float, dry_run: bool = False
    ) -> tuple[Entry, ...]:
        """Aborts multipart uploads that were neither completed nor aborted.

        Needs the permissions s3:ListBucketMultipartUploads, s3:ListMultipartUploadParts and
        s3:AbortMultipartUpload. Costs one request for each page of the listing and two for each
        upload.
        """
        with self._translated(prefix, check=checked_prefix) as name:
            found = [
                upload
                for upload in find_unfinished(self._client, bucket=self._bucket, prefix=name)
                if upload.modified_at_s < before_s
            ]
            for upload in () if dry_run else found:
                abort_unfinished(self._client, bucket=self._bucket, upload=upload)
        entries = (
            Entry(
                key=upload.name.removeprefix(self._root),
                size_bytes=upload.size_bytes,
                modified_at_s=upload.modified_at_s,
                etag="",
            )
            for upload in found
        )
        return tuple(sorted(entries, key=lambda entry: entry.key))

    def local_path(self, key: str) -> None:
        """Returns None, because no object is a local file."""
        checked_key(key)

    def _holds(self, key: str, content: bytes) -> bool:
        try:
            return self.get(key) == content
        except NotFoundError:
            return False

    def _delete_batch(self, names: Sequence[str]) -> None:
        for attempt in range(1, _NUM_ANSWERED_ATTEMPTS + 1):
            with self._translated(names[0].removeprefix(self._root)):
                answer = self._client.delete_objects(
                    Bucket=self._bucket,
                    Delete={"Objects": [{"Key": name} for name in names], "Quiet": True},
                )
            errors = answer.get("Errors", [])
            if not errors:
                return
            if attempt == _NUM_ANSWERED_ATTEMPTS or any(
                error.get("Code") not in TRANSIENT_CODES for error in errors
            ):
                first = "; ".join(f"{e.get('Key')}: {e.get('Message')}" for e in errors[:5])
                raise StoreError(f"store {self._url} did not delete {len(errors)} objects: {first}")
            names = [error["Key"] for error in errors]
            time.sleep(backoff_s(attempt))

    @contextmanager
    def _translated(self, key: str, *, check: Callable[[str], str] = checked_key) -> Iterator[str]:
        name = self._root + check(key)
        with translated(url=self._url, key=key):
            yield name

    def _count(self, **_: object) -> None:
        with self._lock:
            self._num_requests += 1


def _connect(endpoint_url: str | None, *, read_timeout_s: float) -> "S3Client":
    config = Config(
        connect_timeout=min(_CONNECT_TIMEOUT_S, read_timeout_s),
        read_timeout=read_timeout_s,
        max_pool_connections=_NUM_CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": 1},  # see s3_retries
    )
    if endpoint_url is not None:
        # Few other servers answer at <bucket>.<host>, and some refuse trailing checksums (Ceph:
        # HTTP 411). The manifests have the sha256 of every file anyway.
        server = Config(
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        config = config.merge(server)
    session = botocore.session.get_session()
    # botocore's own parser takes three quarters of the time of a listing.
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_time)
    boto_session = boto3.session.Session(botocore_session=session)
    return boto_session.client("s3", endpoint_url=endpoint_url, config=config)


def _time(text: str) -> datetime:
    """Returns the time that an answer has, in the form of listings or of HTTP headers."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return parse_timestamp(text)
