"""Computes content-addressed ids: a specification has the same id on every machine, forever.

An id is the hash of a canonical JSON text. Values without an exact JSON form are errors. A silent
fallback to `str()` would give one specification several ids (through an object's address in its
repr), or several specifications one id.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from eval.digests import sha256_of_bytes

VERSIONS: dict[str, int] = {
    "base": 2,
    "data": 2,
    "head": 1,
    "expert": 2,
    "merge": 4,
    "constants": 1,
    "reach": 1,
    "operator": 1,
}
"""Versions of the kinds of artifacts. Raise one when equal specifications of the kind begin to give
another result."""

# 64 bits: at 100,000 artifacts the odds of any collision are 3e-10.
_ID_LENGTH = 16
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


class UnhashableSpecError(TypeError):
    """A value without an exact JSON form; the message has its path, such as `optimizer.lr`."""


class ArtifactSpec(Protocol):
    """The specification of an artifact of any kind."""

    @property
    def id(self) -> str:
        """The content address."""

    def to_json(self) -> dict[str, Any]:
        """Returns the values that the manifest stores."""


def canonical_json(value: object) -> str:
    """Returns the only JSON text of a value: sorted keys, no spaces, ASCII only.

    An int and a float of the same value have different texts (`1` and `1.0`), so every field of a
    specification needs a fixed type. Tuples become lists.

    Args:
        value: Nested dicts with str keys, lists, tuples, str, bool, int, finite float and None.

    Raises:
        UnhashableSpecError: The value contains another type, a key that is not a str, or a float
            that is NaN or infinite.
    """
    return _ENCODER.encode(plain_json(value))


def plain_json(value: object, *, path: str = "") -> Any:  # noqa: ANN401 any JSON value
    """Returns a value as plain dicts, lists and scalars.

    Args:
        value: See `canonical_json`.
        path: Path of the value inside an outer value, for messages.

    Raises:
        UnhashableSpecError: See `canonical_json`.
    """
    if value is None or isinstance(value, (str, int)):  # a bool is an int
        return value
    if isinstance(value, float):
        return _finite(value, path)
    if isinstance(value, (dict, Mapping)):  # a dict first: asking for an abstract class is slow
        return {
            _key(key, path): plain_json(item, path=_at(path, key)) for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [plain_json(item, path=f"{path}[{i}]") for i, item in enumerate(value)]
    raise UnhashableSpecError(
        f"{path or 'the value'} is {value!r} of type {type(value).__name__}; only dict, list, "
        "tuple, str, bool, int, float and None have an exact JSON form"
    )


def content_id(
    kind: str, *, version: int, spec: Mapping[str, Any], inputs: Sequence[str] = ()
) -> str:
    """Returns the id of an artifact: 16 hexadecimal digits.

    Args:
        kind: Kind of the artifact, such as `expert`.
        version: Version of the kind, from `VERSIONS`.
        spec: Everything that defines the artifact and nothing else: no resources, URLs or names.
        inputs: The ids of the artifacts that it is made from. Their order matters.

    Raises:
        UnhashableSpecError: See `canonical_json`; also if `inputs` is a str.
    """
    text = _ENCODER.encode(plain_json(spec, path="spec"))
    return content_id_of_text(kind, version=version, spec=text, inputs=inputs)


def content_id_of_text(kind: str, *, version: int, spec: str, inputs: Sequence[str] = ()) -> str:
    """Returns the id of `content_id`, from the canonical JSON of a specification.

    Tens of thousands of merges differ in their inputs alone, and share the text.

    Raises:
        UnhashableSpecError: `inputs` is a str.
    """
    if isinstance(inputs, str):
        raise UnhashableSpecError(f"inputs is the str {inputs!r}; expected a list of ids")
    # The keys are sorted, as in the canonical JSON of a dict of all four.
    before = f'{{"inputs":{_ENCODER.encode(list(inputs))},"kind":"{kind}","spec":'
    return sha256_of_bytes(f'{before}{spec},"version":{version}}}'.encode())[:_ID_LENGTH]


def _key(key: object, path: str) -> str:
    if isinstance(key, str):
        return key
    raise UnhashableSpecError(
        f"{path or 'the value'} has the key {key!r} of type {type(key).__name__}; keys are str"
    )


def _at(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _finite(value: float, path: str) -> float:
    if math.isfinite(value):
        return value
    raise UnhashableSpecError(
        f"{path or 'the value'} is {value}, which JSON cannot express; use None for 'no value'"
    )
