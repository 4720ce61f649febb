"""Translation of boto3's exceptions into the errors of the contract, with a remedy for each."""

from collections.abc import Iterator
from contextlib import contextmanager

from boto3.exceptions import RetriesExceededError
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    LoginError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
    UnknownCredentialError,
)
from s3transfer.exceptions import RetriesExceededError as TransferRetriesExceededError

from workers.store.protocol import (
    NotFoundError,
    StoreCredentialsError,
    StoreError,
    StoreFullError,
    StoreNotFoundError,
    StoreUnavailableError,
)

_CREDENTIAL_ERRORS = (
    CredentialRetrievalError,
    LoginError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
    UnknownCredentialError,
)
# AWS answers 400 for an expired session, and 401 or 403 for every other refusal.
_REFUSED_CODES = {"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"}
_REFUSED_STATUS = {401, 403}
_FULL_CODES = {"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull"}
# Codes of answers without a complete body, such as answers to HEAD; they have only a status.
_CODES_OF_STATUS = {
    "404": "NoSuchKey",
    "409": "ConditionalRequestConflict",
    "412": "PreconditionFailed",
}
_INSUFFICIENT_STORAGE = 507
_TOO_MANY_REQUESTS = 429
_SERVER_ERROR = 500


@contextmanager
def translated(*, url: str, key: str) -> Iterator[None]:
    """Raises a `StoreError` in place of every error of boto3, botocore and s3transfer."""
    try:
        yield
    except ClientError as error:
        raise _from_answer(error, url=url, key=key) from error
    except _CREDENTIAL_ERRORS as error:
        raise StoreCredentialsError(
            f"no usable credentials for store {url}: {error}; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, for the command and on all nodes"
        ) from error
    except (BotoCoreError, RetriesExceededError, TransferRetriesExceededError) as error:
        raise StoreUnavailableError(
            f"store {url} did not answer a request for {key!r}, after retries: {error}; check the "
            "endpoint and the network, then run the same command again"
        ) from error


@contextmanager
def translated_settings(*, url: str) -> Iterator[None]:
    """Raises a `StoreCredentialsError` for AWS settings with which no client can be created."""
    try:
        with translated(url=url, key=""):
            yield
    except (StoreUnavailableError, ValueError, OSError) as error:
        reason = error.__cause__ or error
        raise StoreCredentialsError(
            f"the AWS settings of this environment cannot be used for store {url}: {reason}; "
            "correct the variable AWS_... or the file ~/.aws/... that has the setting, or unset it"
        ) from error


def code_of(error: ClientError) -> str:
    """Returns the error code of the server's answer, for example `NoSuchKey`."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    return _CODES_OF_STATUS.get(code, code)


def num_retries(error: ClientError) -> int:
    """Returns how many times the request was repeated before this answer."""
    return int(error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0))


def _from_answer(error: ClientError, *, url: str, key: str) -> StoreError:
    code = code_of(error)
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code == "NoSuchBucket":
        return StoreNotFoundError(
            f"the bucket of store {url} does not exist; create it, or correct `store`"
        )
    if code == "NoSuchKey":
        return NotFoundError(f"store {url} has no object {key!r}")
    if status in _REFUSED_STATUS or code in _REFUSED_CODES:
        return StoreCredentialsError(
            f"store {url} refused a request for {key!r}: {error}; the credentials are wrong or "
            "expired, or lack the permissions s3:ListBucket, s3:GetObject, s3:PutObject and "
            "s3:DeleteObject for it"
        )
    if status == _INSUFFICIENT_STORAGE or code in _FULL_CODES:
        return StoreFullError(
            f"store {url} has no space for {key!r}: {error}; free some space, then run the same "
            "command again"
        )
    if status >= _SERVER_ERROR or status == _TOO_MANY_REQUESTS:
        return StoreUnavailableError(
            f"store {url} failed at a request for {key!r}, after retries: {error}; run the same "
            "command again"
        )
    return StoreError(f"store {url}, key {key!r}: {error}")
