import json
import subprocess

import pytest

from workers.artifacts.checksummed_json import (
    DamagedJsonError,
    dump_checksummed,
    parse_checksummed,
    verify_checksum,
)

FIELDS = {"b": 1e-05, "a": {"checksum": "inner", "text": "\u00fc\n"}, "z": [1, None]}


def test_parsed_fields_are_the_dumped_ones() -> None:
    """Parsing removes the file's own checksum and keeps a field of that name deeper inside."""
    assert parse_checksummed(dump_checksummed(FIELDS)) == FIELDS


def test_equal_fields_give_equal_bytes() -> None:
    """The order of the fields does not reach the file."""
    assert dump_checksummed(dict(reversed(FIELDS.items()))) == dump_checksummed(FIELDS)


def test_checksummed_file_is_plain_json() -> None:
    """Any JSON parser reads the fields and one more, the checksum."""
    parsed = json.loads(dump_checksummed(FIELDS))
    assert len(parsed.pop("checksum")) == 64
    assert parsed == FIELDS


def test_checksum_can_be_checked_by_hand() -> None:
    """`sed` and `sha256sum` give the checksum that the file contains."""
    content = dump_checksummed(FIELDS)
    shell = subprocess.run(
        "sed 2d | sha256sum", shell=True, input=content, capture_output=True, check=True
    )
    assert shell.stdout.split()[0].decode() == json.loads(content)["checksum"]


def test_every_flipped_bit_is_found() -> None:
    """A flipped bit is found even if the values stay equal, as with 1e-05 and 1E-05."""
    content = dump_checksummed(FIELDS)
    for position in range(len(content)):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[position] ^= 1 << bit
            with pytest.raises(DamagedJsonError):
                parse_checksummed(bytes(flipped))


def test_every_truncation_is_found() -> None:
    """A missing last newline is found, and so is an appended one."""
    content = dump_checksummed(FIELDS)
    for length in range(len(content)):
        with pytest.raises(DamagedJsonError):
            parse_checksummed(content[:length])
    with pytest.raises(DamagedJsonError, match="does not match its checksum"):
        parse_checksummed(content + b"\n")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[]", "does not match"),
        (b"{}", "does not match"),
        (b'{"checksum": 3}', "does not match"),
        (json.dumps(json.loads(dump_checksummed(FIELDS))).encode(), "does not match"),
    ],
)
def test_other_content_is_refused(content: bytes, problem: str) -> None:
    """Content that is not JSON, or has no checksum on its second line, is refused."""
    with pytest.raises(DamagedJsonError, match=problem):
        parse_checksummed(content)


def test_whole_file_passes_the_check() -> None:
    """`verify_checksum` returns for the dumped bytes and raises for others."""
    verify_checksum(dump_checksummed(FIELDS))
    with pytest.raises(DamagedJsonError):
        verify_checksum(dump_checksummed(FIELDS)[1:])


def test_number_that_json_cannot_express_is_refused() -> None:
    """A file with NaN would be refused by other JSON parsers."""
    with pytest.raises(ValueError, match="JSON"):
        dump_checksummed({"loss": float("nan")})
