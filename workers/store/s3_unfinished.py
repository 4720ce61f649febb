"""Multipart uploads that were neither completed nor aborted, whose parts cost money."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from workers.store.s3_errors import code_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_NO_SUCH_OPERATION = {"MethodNotAllowed", "NotImplemented"}


@dataclass(frozen=True, kw_only=True)
class UnfinishedUpload:
    """A multipart upload that is in progress, or whose writer died."""

    name: str
    """Name in the bucket of the object that was being written."""

    upload_id: str
    """Id that distinguishes several uploads of the same object."""

    size_bytes: int
    """Total size of the parts."""

    modified_at_s: float
    """Time of the last part, or of the start if there is no part; in seconds since 1970."""


def find_unfinished(client: "S3Client", *, bucket: str, prefix: str) -> list[UnfinishedUpload]:
    """Returns the unfinished uploads of objects below a prefix.

    Costs one request for each page of the listing and one for each upload. For a server that does
    not support the listing, the result is empty.

    Raises:
        ClientError: The server refuses the listing.
    """
    pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
    try:
        uploads = [upload for page in pages for upload in page.get("Uploads", [])]
    except ClientError as error:
        if code_of(error) in _NO_SUCH_OPERATION:
            return []
        raise
    found = []
    for upload in uploads:
        # Some servers ignore the prefix.
        if not upload["Key"].startswith(prefix):
            continue
        with _unless_gone():
            found.append(
                _measure(
                    client,
                    bucket=bucket,
                    name=upload["Key"],
                    upload_id=upload["UploadId"],
                    began_at_s=upload["Initiated"].timestamp(),
                )
            )
    return found


def abort_unfinished(client: "S3Client", *, bucket: str, upload: UnfinishedUpload) -> None:
    """Deletes an upload and its parts; a writer that is still alive gets `NoSuchUpload`.

    Raises:
        ClientError: The server refuses the request.
    """
    with _unless_gone():
        client.abort_multipart_upload(Bucket=bucket, Key=upload.name, UploadId=upload.upload_id)


def _measure(
    client: "S3Client", *, bucket: str, name: str, upload_id: str, began_at_s: float
) -> UnfinishedUpload:
    pages = client.get_paginator("list_parts").paginate(Bucket=bucket, Key=name, UploadId=upload_id)
    parts = [part for page in pages for part in page.get("Parts", [])]
    return UnfinishedUpload(
        name=name,
        upload_id=upload_id,
        size_bytes=sum(part["Size"] for part in parts),
        modified_at_s=max([began_at_s, *(part["LastModified"].timestamp() for part in parts)]),
    )


@contextmanager
def _unless_gone() -> Iterator[None]:
    """Ignores the error of an upload that was completed or aborted after the listing."""
    try:
        yield
    except ClientError as error:
        if code_of(error) != "NoSuchUpload":
            raise
