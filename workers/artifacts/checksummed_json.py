"""JSON files that contain their own checksum, so that a reader notices any changed byte.

The checksum stands alone on the second line. It covers every byte except that line, and can be
checked by hand: `sed 2d manifest.json | sha256sum`.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from eval.digests import sha256_of_bytes

CHECKSUM = "checksum"
"""Name of the checksum's field; no other top-level field may have this name."""
_HEAD = re.compile(rb'\{\n "checksum": "([0-9a-f]{64})",\n')
_OPEN = b"{\n"


class DamagedJsonError(ValueError):
    """The bytes are not those that `dump_checksummed` returned; the message says why not."""


def dump_checksummed(fields: Mapping[str, Any]) -> bytes:
    """Returns fields as JSON with a checksum; equal fields give equal bytes.

    Args:
        fields: One field or more; values are plain JSON values.

    Raises:
        ValueError: A number is NaN or infinite, which JSON cannot express.
    """
    text = json.dumps(fields, sort_keys=True, indent=1, allow_nan=False)
    body = text.encode().removeprefix(_OPEN) + b"\n"
    return b'{\n "checksum": "%b",\n%b' % (_checksum(body).encode(), body)


def verify_checksum(content: bytes) -> None:
    """Checks that content is byte for byte what `dump_checksummed` returned.

    The check is on bytes, not on parsed values: 1e-05 and 1E-05 are equal values and differ by one
    bit.

    Raises:
        DamagedJsonError: The content differs.
    """
    head = _HEAD.match(content)
    if head is None or _checksum(content[head.end() :]) != head.group(1).decode():
        raise DamagedJsonError("does not match its checksum")


def parse_checksummed(content: bytes) -> dict[str, Any]:
    """Returns the fields that `dump_checksummed` was given, without the checksum.

    Raises:
        DamagedJsonError: The content is not JSON, or does not match its checksum.
    """
    try:
        fields = json.loads(content)
    except ValueError as error:
        raise DamagedJsonError(f"is not JSON: {error}") from error
    verify_checksum(content)
    return {name: value for name, value in fields.items() if name != CHECKSUM}


def _checksum(body: bytes) -> str:
    return sha256_of_bytes(_OPEN + body)
