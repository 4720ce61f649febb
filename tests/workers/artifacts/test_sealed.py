import json
import subprocess

import pytest

from workers.artifacts.sealed import SealError, check_seal, seal, unseal

FIELDS = {"b": 1e-05, "a": {"checksum": "inner", "text": "\u00fc\n"}, "z": [1, None]}


def test_unsealed_fields_are_the_sealed_ones() -> None:
    """The checksum is not among them; one deeper inside is."""
    assert unseal(seal(FIELDS)) == FIELDS


def test_equal_fields_give_equal_bytes() -> None:
    """Whatever order they came in."""
    assert seal(dict(reversed(FIELDS.items()))) == seal(FIELDS)


def test_sealed_file_is_plain_json() -> None:
    """Any reader gets the fields, and one more."""
    parsed = json.loads(seal(FIELDS))
    assert len(parsed.pop("checksum")) == 64
    assert parsed == FIELDS


def test_checksum_can_be_checked_by_hand() -> None:
    """Without the second line, sha256sum prints it."""
    content = seal(FIELDS)
    shell = subprocess.run(
        "sed 2d | sha256sum", shell=True, input=content, capture_output=True, check=True
    )
    assert shell.stdout.split()[0].decode() == json.loads(content)["checksum"]


def test_every_flipped_bit_is_found() -> None:
    """Also those that leave equal values, as 1e-05 and 1E-05 do."""
    content = seal(FIELDS)
    for position in range(len(content)):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[position] ^= 1 << bit
            with pytest.raises(SealError):
                unseal(bytes(flipped))


def test_every_truncation_is_found() -> None:
    """Down to the last line's end; and so is anything appended."""
    content = seal(FIELDS)
    for length in range(len(content)):
        with pytest.raises(SealError):
            unseal(content[:length])
    with pytest.raises(SealError, match="does not match its checksum"):
        unseal(content + b"\n")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[]", "does not match"),
        (b"{}", "does not match"),
        (b'{"checksum": 3}', "does not match"),
        (json.dumps(json.loads(seal(FIELDS))).encode(), "does not match"),
    ],
)
def test_what_was_never_sealed_is_refused(content: bytes, problem: str) -> None:
    """Not JSON, or without a checksum where it belongs."""
    with pytest.raises(SealError, match=problem):
        unseal(content)


def test_whole_file_passes_the_check() -> None:
    """Which is silent, and refuses what differs."""
    check_seal(seal(FIELDS))
    with pytest.raises(SealError):
        check_seal(seal(FIELDS)[1:])


def test_number_that_json_cannot_say_is_refused() -> None:
    """A NaN would make a file that other readers refuse."""
    with pytest.raises(ValueError, match="JSON"):
        seal({"loss": float("nan")})
