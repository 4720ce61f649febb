"""Derivation of an independent seed for each use of randomness from one seed and a purpose."""

import hashlib


def derive_seed(seed: int, *purpose: object) -> int:
    """Returns a 63-bit seed that depends on all arguments and on nothing else.

    The seeds of neighbouring integers are unrelated, so that the batches of seed 0 and the head of
    seed 1 never use the same random numbers.
    """
    text = "\x1f".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
