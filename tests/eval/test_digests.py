import hashlib
from pathlib import Path

from eval.digests import sha256_of_bytes, sha256_of_file


def test_digest_of_a_file_is_the_digest_of_its_bytes(tmp_path: Path) -> None:
    """Both are the hexadecimal sha256, also of a file without content."""
    for content in (b"", b"weights"):
        (tmp_path / "x").write_bytes(content)
        expected = hashlib.sha256(content).hexdigest()
        assert sha256_of_bytes(content) == sha256_of_file(tmp_path / "x") == expected
