"""JSON files of a store that carry a checksum of themselves, so that any changed byte is found.

The checksum stands alone on the second line and covers every byte but that line:
`sed 2d manifest.json | sha256sum` says what it should be.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

CHECKSUM = "checksum"
"""The field's name; no other field of a sealed file may have it."""
# Matched on the bytes, as equal values have several spellings: 1e-05 and 1E-05 are one bit apart.
_SEALED_HEAD = re.compile(rb'\{\n "checksum": "([0-9a-f]{64})",\n')
_OPEN = b"{\n"


class SealError(ValueError):
    """A file is not what was sealed; the message says how it differs."""


def seal(fields: Mapping[str, Any]) -> bytes:
    """Returns fields as JSON with a checksum; equal fields give equal bytes.

    Args:
        fields: At least one, of plain values.

    Raises:
        ValueError: A number is not finite, which JSON cannot say.
    """
    text = json.dumps(fields, sort_keys=True, indent=1, allow_nan=False)
    body = text.encode().removeprefix(_OPEN) + b"\n"
    return b'{\n "checksum": "%b",\n%b' % (_digest(body).encode(), body)


def check_seal(content: bytes) -> None:
    """Checks that content is byte for byte what `seal` returned.

    Raises:
        SealError: It is not.
    """
    head = _SEALED_HEAD.match(content)
    if head is None or _digest(content[head.end() :]) != head.group(1).decode():
        raise SealError("does not match its checksum")


def unseal(content: bytes) -> dict[str, Any]:
    """Returns the fields that `seal` was given, the checksum left out.

    Raises:
        SealError: The content is not JSON, or does not match its checksum.
    """
    try:
        fields = json.loads(content)
    except ValueError as error:
        raise SealError(f"is not JSON: {error}") from error
    check_seal(content)
    return {name: value for name, value in fields.items() if name != CHECKSUM}


def _digest(body: bytes) -> str:
    return hashlib.sha256(_OPEN + body).hexdigest()
