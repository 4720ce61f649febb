"""Opening a store by its URL, and checks of a store before work is scheduled."""

import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from eval.user_paths import NoHomeError, expanded
from workers.store.local import LocalStore
from workers.store.protocol import (
    PROBES_PREFIX,
    RETRY_TIMEOUT_S,
    Store,
    StoreError,
    StoreUrlError,
    checked_key,
)

_FORMS = "a path, file:///path or s3://bucket/prefix[?endpoint_url=http://host:port]"
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_SCHEME_WITHOUT_SLASHES = re.compile(r"(s3|file):/*(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,62}")
_CHECK_RETRY_TIMEOUT_S = 2.0  # short, because a user waits for the check


def open_store(
    url: str,
    *,
    environment: Mapping[str, str] = os.environ,
    retry_timeout_s: float = RETRY_TIMEOUT_S,
) -> Store:
    """Returns the store with a URL, without a request to it.

    Args:
        url: A path, `file:///path`, or `s3://bucket/prefix`, optionally followed by the server's
            address, `?endpoint_url=http://host:port`. Credentials must not be in the URL; they
            come from the environment.
        environment: If the URL has no `endpoint_url`, the S3 server is taken from
            `AWS_ENDPOINT_URL_S3`, or else from `AWS_ENDPOINT_URL`.
        retry_timeout_s: How long an S3 request that meets a transient fault is repeated.

    Raises:
        StoreUrlError: The URL has another scheme, an unknown parameter, no bucket, or credentials,
            or the path cannot be one (`local_path`).
        StoreCredentialsError: The AWS profile that the environment names does not exist.
    """
    if "://" not in url:
        return LocalStore(local_path(url))
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise StoreUrlError(
            f"the URL of the store cannot be read ({error}); give {_FORMS}"
        ) from error
    match parts.scheme:
        case "file":
            return LocalStore(local_path(_file_path(parts, url=url)))
        case "s3":
            return _open_s3(parts, environment=environment, retry_timeout_s=retry_timeout_s)
    raise StoreUrlError(f"store {url!r} has the scheme {parts.scheme!r}; give {_FORMS}")


def local_path(path: str) -> Path:
    """Returns the directory of a store that is given by a path, with `~` expanded.

    Raises:
        StoreUrlError: The path is empty, is a URL that lacks slashes, as in `s3:/bucket/prefix`, or
            begins with a variable or with a home that this machine does not know.
    """
    if not path:
        raise StoreUrlError(f"the URL of the store is empty; give {_FORMS}")
    if found := _SCHEME_WITHOUT_SLASHES.fullmatch(path):
        scheme, rest = found[1].lower(), found["rest"]
        meant = f"{scheme}://{rest}" if scheme == "s3" else f"file:///{rest}"
        raise StoreUrlError(
            f"store {path!r} lacks slashes; write {meant}, or ./{path} for a folder of this name"
        )
    try:
        return expanded(path)
    except NoHomeError as error:
        raise StoreUrlError(f"store {error}") from error


def check_store(url: str, *, writes: bool = True) -> None:
    """Checks that a store can be listed, written, read and deleted from.

    Call this before work is scheduled, so that the user learns of a fault at once.

    Args:
        url: The store's URL.
        writes: Whether to try anything but listing.

    Raises:
        StoreError: An operation failed; the message says what to do.
    """
    store = open_store(url, retry_timeout_s=_CHECK_RETRY_TIMEOUT_S)
    key = _probe_key()
    written = key.encode()
    for _ in store.list(PROBES_PREFIX):
        break
    if not writes:
        return
    store.put(key, written)
    try:
        read = store.get(key)
    finally:
        store.delete([key])
    if read != written:
        raise StoreError(
            f"store {url} returned other bytes than were written to it; use another one"
        )


def is_surely_read_only(url: str) -> bool:
    """Returns whether it is known, without writing, that this user cannot write to a store.

    False for S3, which tells nothing before a write.
    """
    if urlsplit(url).scheme == "s3":
        return False
    path = Path(open_store(url).url)
    existing = next(each for each in (path, *path.parents) if each.exists())
    return not os.access(existing, os.W_OK)


def supports_conditional_put(store: Store) -> bool:
    """Returns whether the store keeps the first of two conditional puts.

    Some S3 servers accept the condition and ignore it. On such a server, two workers that make the
    same artifact overwrite each other's manifests, so only one driver at a time may use it.
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


def _file_path(parts: SplitResult, *, url: str) -> str:
    if parts.netloc not in {"", "localhost"}:
        raise StoreUrlError(
            f"store {url!r} has the host {parts.netloc!r}; a local path has three slashes: "
            f"file:///{parts.netloc}{parts.path}"
        )
    return unquote(parts.path)


def _open_s3(
    parts: SplitResult, *, environment: Mapping[str, str], retry_timeout_s: float
) -> Store:
    shown = f"s3://{parts.netloc.rpartition('@')[2]}{parts.path}"
    _refuse_credentials(parts.netloc, where=f"store {shown!r}")
    if not parts.netloc:
        raise StoreUrlError(f"store {shown!r} names no bucket; give s3://bucket/prefix")
    if not _BUCKET.fullmatch(parts.netloc):
        raise StoreUrlError(
            f"store {shown!r}: {parts.netloc!r} can be no bucket; a bucket's name has 3 to 63 "
            "letters, digits, '.', '_' or '-', the first a letter or digit"
        )
    endpoint_url = _endpoint_in_query(parts.query, shown=shown)
    where = f"endpoint_url of store {shown!r}"
    for variable in _ENDPOINT_VARIABLES:
        if endpoint_url is None and environment.get(variable):
            endpoint_url, where = environment[variable], f"the variable {variable}"
    if endpoint_url is not None:
        _check_endpoint(endpoint_url, where=where)
    prefix = parts.path.strip("/")
    # Imported here because boto3 takes 0.4 s to load and local stores do not need it.
    from workers.store.s3 import S3Store  # noqa: PLC0415

    return S3Store(
        parts.netloc,
        prefix=checked_key(prefix) if prefix else "",
        endpoint_url=endpoint_url,
        retry_timeout_s=retry_timeout_s,
    )


def _endpoint_in_query(query: str, *, shown: str) -> str | None:
    parameters = parse_qs(query)
    if unknown := sorted(parameters.keys() - {"endpoint_url"}):
        raise StoreUrlError(
            f"store {shown!r} has the unknown parameter {', '.join(unknown)}; "
            "the only parameter is endpoint_url"
        )
    return parameters.get("endpoint_url", [None])[-1]


def _check_endpoint(endpoint_url: str, *, where: str) -> None:
    """Checks the address of an S3 server.

    Args:
        endpoint_url: The address.
        where: The variable or the part of the store's URL that has the address, for messages.
    """
    try:
        parts = urlsplit(endpoint_url)
        is_usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:  # a port that is none, a broken IPv6 address
        is_usable, netloc = False, endpoint_url
    else:
        netloc = parts.netloc
    _refuse_credentials(netloc, where=where)
    if not is_usable:
        raise StoreUrlError(
            f"{where} is {endpoint_url!r}, which is not the address of a server; give "
            "http://host:port or https://host"
        )


def _refuse_credentials(netloc: str, *, where: str) -> None:
    if "@" in netloc:
        raise StoreUrlError(
            f"{where} has credentials in its URL, which would appear in logs; remove them and set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
