"""Derives independent seeds for each use of randomness from one seed and what it is for."""

import hashlib


def derive_seed(seed: int, *purpose: object) -> int:
    """Returns a 63-bit seed that depends on every argument and on nothing else.

    Seeds of neighbouring integers are unrelated, so that trial 0's sampler and trial 1's head
    never share a stream.
    """
    text = "\x1f".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
