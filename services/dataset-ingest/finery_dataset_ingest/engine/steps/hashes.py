"""Numbers that stand for texts and for chance: the same on every machine and in every version.

Nothing here may change: the order of a shuffle and the sides of a split follow from it.
"""

from __future__ import annotations

import hashlib

import numpy as np

_M1, _M2, _STEP = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB), np.uint64(0x9E3779B97F4A7C15)


def mixed(values: np.ndarray) -> np.ndarray:
    """uint64 → uint64, each bit depending on every bit: the finaliser of SplitMix64 (Steele et al., 2014)."""
    with np.errstate(over="ignore"):
        x = values.astype(np.uint64) + _STEP
        for shift, factor in ((np.uint64(30), _M1), (np.uint64(27), _M2)):
            x ^= x >> shift
            x *= factor
        x ^= x >> np.uint64(31)
        return x


def chances(seed: int, name: str, values: np.ndarray) -> np.ndarray:
    """One random-looking uint64 for each value, decided by the seed and what it is for."""
    salt = int.from_bytes(hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest(), "little")
    return mixed(mixed(values.astype(np.uint64)) ^ np.uint64(salt))


def fingerprints(texts: list[str]) -> np.ndarray:
    """A 128-bit fingerprint of each text as two columns of uint64; two texts never share one by chance."""
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts)
    return np.frombuffer(digests, "<u8").reshape(-1, 2).astype(np.uint64)
