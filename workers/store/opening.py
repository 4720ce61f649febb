"""Opens a store by its URL, and checks one before work is scheduled on it."""

import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from workers.store.local import LocalStore
from workers.store.protocol import (
    PATIENCE_S,
    PROBES_PREFIX,
    Store,
    StoreError,
    StoreUrlError,
    checked_key,
)

_FORMS = "a path, file:///path or s3://bucket/prefix[?endpoint_url=http://host:port]"
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
_CHECK_PATIENCE_S = 2.0  # a check is for someone who waits


def open_store(
    url: str, *, environment: Mapping[str, str] = os.environ, patience_s: float = PATIENCE_S
) -> Store:
    """Returns the store that a URL names; nothing is read or written yet.

    Args:
        url: A path, `file:///path`, or `s3://bucket/prefix`, which takes the server's address as
            `?endpoint_url=http://host:port`. Credentials come from the environment, never from
            here.
        environment: Names the S3 server where the URL does not: `AWS_ENDPOINT_URL_S3`, or else
            `AWS_ENDPOINT_URL`.
        patience_s: For how long an S3 request that meets a passing fault is sent again.

    Raises:
        StoreUrlError: Another scheme, an unknown parameter, no bucket, or credentials inside.
        StoreCredentialsError: The AWS profile that the environment names does not exist.
    """
    if "://" not in url:
        return LocalStore(_checked_path(url))
    parts = urlsplit(url)
    match parts.scheme:
        case "file":
            return LocalStore(_checked_path(_file_path(parts, url=url)))
        case "s3":
            return _open_s3(parts, environment=environment, patience_s=patience_s)
    raise StoreUrlError(f"store {url!r} has the scheme {parts.scheme!r}; give {_FORMS}")


def check_store(url: str) -> None:
    """Lists, writes, reads and deletes in a store, so that a fault shows before work is scheduled.

    Raises:
        StoreError: One of the contract's errors; its message says what to do.
    """
    store = open_store(url, patience_s=_CHECK_PATIENCE_S)
    key = _probe_key()
    written = key.encode()
    for _ in store.list(PROBES_PREFIX):
        break
    store.put(key, written)
    try:
        read = store.get(key)
    finally:
        store.delete([key])
    if read != written:
        raise StoreError(f"store {url} returned other bytes than were written; it cannot be used")


def supports_conditional_put(store: Store) -> bool:
    """Returns whether the store keeps the first of two conditional writes, as it must.

    Some S3 servers accept the condition and ignore it: there, two workers on one artifact
    overwrite each other's manifests, and only one driver at a time may use the store.
    """
    key = _probe_key()
    try:
        first_won = store.put_if_absent(key, b"first")
        second_won = store.put_if_absent(key, b"second")
        return first_won and not second_won and store.get(key) == b"first"
    finally:
        store.delete([key])


def _probe_key() -> str:
    return f"{PROBES_PREFIX}{secrets.token_hex(8)}"


def _checked_path(path: str) -> Path:
    if not path:
        raise StoreUrlError(f"the store's URL is empty; give {_FORMS}")
    return Path(path).expanduser()


def _file_path(parts: SplitResult, *, url: str) -> str:
    if parts.netloc not in {"", "localhost"}:
        raise StoreUrlError(
            f"store {url!r} names the host {parts.netloc!r}; a local path has three slashes: "
            f"file:///{parts.netloc}{parts.path}"
        )
    return unquote(parts.path)


def _open_s3(parts: SplitResult, *, environment: Mapping[str, str], patience_s: float) -> Store:
    shown = f"s3://{parts.netloc.rpartition('@')[2]}{parts.path}"
    _refuse_credentials(parts.netloc, shown=shown)
    if not _BUCKET.fullmatch(parts.netloc):
        raise StoreUrlError(f"store {shown!r} names no bucket; give s3://bucket/prefix")
    endpoint_url = _endpoint_in_query(parts.query, shown=shown)
    for variable in _ENDPOINT_VARIABLES:
        endpoint_url = endpoint_url or environment.get(variable) or None
    if endpoint_url is not None:
        _check_endpoint(endpoint_url, shown=shown)
    prefix = parts.path.strip("/")
    # Late: boto3 takes 0.4 s to load, and a local store needs none of it.
    from workers.store.s3 import S3Store  # noqa: PLC0415

    return S3Store(
        parts.netloc,
        prefix=checked_key(prefix) if prefix else "",
        endpoint_url=endpoint_url,
        patience_s=patience_s,
    )


def _endpoint_in_query(query: str, *, shown: str) -> str | None:
    parameters = parse_qs(query)
    if unknown := sorted(parameters.keys() - {"endpoint_url"}):
        raise StoreUrlError(
            f"store {shown!r} has the unknown parameter {', '.join(unknown)}; "
            "only endpoint_url is one"
        )
    return parameters.get("endpoint_url", [None])[-1]


def _check_endpoint(endpoint_url: str, *, shown: str) -> None:
    parts = urlsplit(endpoint_url)
    _refuse_credentials(parts.netloc, shown=shown)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise StoreUrlError(
            f"store {shown!r} has the endpoint {endpoint_url!r}; give http://host:port or "
            "https://host"
        )


def _refuse_credentials(netloc: str, *, shown: str) -> None:
    if "@" in netloc:
        raise StoreUrlError(
            f"store {shown!r} has credentials in its URL, where logs would show them; set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, instead"
        )
