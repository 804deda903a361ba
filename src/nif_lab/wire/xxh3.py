"""XXH3-64 with seed 0, after the published description; NumPy does the long inputs.

A quicker one can take its place: ``xxh3.implementation = core.checksum``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["checksum", "implementation", "xxh3_64"]

_Words: TypeAlias = npt.NDArray[np.uint64]

_SECRET: Final = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
    "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)
_MASK: Final = 2**64 - 1
_PRIME32: Final = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)
_PRIME64: Final = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)
_START: Final = (_PRIME32[2], *_PRIME64[:4], _PRIME32[1], _PRIME64[4], _PRIME32[0])

_STRIPE: Final = 64  # bytes: a word for each of eight accumulators
_BLOCK: Final = 16 * _STRIPE  # after which the accumulators are scrambled
_TOGETHER: Final = 256  # blocks that NumPy works on at once


def _word(data: bytes | memoryview, at: int, size: int = 8) -> int:
    return int.from_bytes(data[at : at + size], "little")


def _keys(at: int, count: int = 8) -> _Words:
    return np.frombuffer(_SECRET, "<u8", count, at)


def _fold(x: int, y: int) -> int:
    product = x * y
    return (product & _MASK) ^ (product >> 64)


def _rotated(h: int, bits: int) -> int:
    return (h << bits | h >> (64 - bits)) & _MASK


def _avalanche(h: int) -> int:
    h = (h ^ (h >> 37)) * 0x165667919E3779F9 & _MASK
    return h ^ (h >> 32)


def _avalanche_xxh64(h: int) -> int:
    h = (h ^ (h >> 33)) * _PRIME64[1] & _MASK
    h = (h ^ (h >> 29)) * _PRIME64[2] & _MASK
    return h ^ (h >> 32)


def _short(data: memoryview) -> int:
    n = len(data)
    if n > 8:
        low = _word(data, 0) ^ _word(_SECRET, 24) ^ _word(_SECRET, 32)
        high = _word(data, n - 8) ^ _word(_SECRET, 40) ^ _word(_SECRET, 48)
        swapped = int.from_bytes(low.to_bytes(8, "little"), "big")
        return _avalanche((n + swapped + high + _fold(low, high)) & _MASK)
    if n >= 4:
        h = _word(data, n - 4, 4) + (_word(data, 0, 4) << 32)
        h ^= _word(_SECRET, 8) ^ _word(_SECRET, 16)
        h = (h ^ _rotated(h, 49) ^ _rotated(h, 24)) * 0x9FB21C651E98DF25 & _MASK
        h = (h ^ ((h >> 35) + n)) * 0x9FB21C651E98DF25 & _MASK
        return h ^ (h >> 28)
    if n:
        h = data[0] << 16 | data[n >> 1] << 24 | data[n - 1] | n << 8
        return _avalanche_xxh64(h ^ _word(_SECRET, 0, 4) ^ _word(_SECRET, 4, 4))
    return _avalanche_xxh64(_word(_SECRET, 56) ^ _word(_SECRET, 64))


def _mix(data: memoryview, at: int, key: int) -> int:
    return _fold(_word(data, at) ^ _word(_SECRET, key), _word(data, at + 8) ^ _word(_SECRET, key + 8))


def _medium(data: memoryview) -> int:
    n = len(data)
    h = n * _PRIME64[0]
    if n <= 128:
        for i in range((n + 31) // 32):
            h += _mix(data, 16 * i, 32 * i) + _mix(data, n - 16 * (i + 1), 32 * i + 16)
        return _avalanche(h & _MASK)
    h = _avalanche((h + sum(_mix(data, 16 * i, 16 * i) for i in range(8))) & _MASK)
    h += sum(_mix(data, 16 * i, 16 * (i - 8) + 3) for i in range(8, n // 16))
    return _avalanche((h + _mix(data, n - 16, 119)) & _MASK)


def _products(data: _Words, keys: _Words) -> _Words:
    """Return what stripes add to the accumulators; the last two axes are stripes and words."""
    keyed = data ^ keys
    crossed = data.reshape(*data.shape[:-1], 4, 2)[..., ::-1].reshape(data.shape)
    added: _Words = (crossed + (keyed & np.uint64(0xFFFFFFFF)) * (keyed >> np.uint64(32))).sum(-2, dtype=np.uint64)
    return added


def _long(data: memoryview) -> int:
    n = len(data)
    blocks, rest = divmod(n - 1, _BLOCK)
    keys = np.stack([_keys(8 * stripe) for stripe in range(16)])
    sums = np.array(_START, np.uint64)
    for first in range(0, blocks, _TOGETHER):
        count = min(_TOGETHER, blocks - first)
        words = np.frombuffer(data, "<u8", count * _BLOCK // 8, first * _BLOCK).reshape(count, 16, 8)
        for added in _products(words, keys):
            sums += added
            sums = (sums ^ (sums >> np.uint64(47)) ^ _keys(128)) * np.uint64(_PRIME32[0])
    stripes = rest // _STRIPE
    if stripes:
        rest_words = np.frombuffer(data, "<u8", stripes * 8, blocks * _BLOCK).reshape(stripes, 8)
        sums += _products(rest_words, keys[:stripes])
    sums += _products(np.frombuffer(data, "<u8", 8, n - _STRIPE).reshape(1, 8), _keys(121).reshape(1, 8))
    keyed = [int(word) for word in sums ^ _keys(11)]
    return _avalanche((n * _PRIME64[0] + sum(_fold(*keyed[i : i + 2]) for i in range(0, 8, 2))) & _MASK)


def xxh3_64(data: memoryview) -> int:
    """Return XXH3-64 of bytes."""
    n = len(data)
    return _short(data) if n <= 16 else _medium(data) if n <= 240 else _long(data)


implementation: Callable[[memoryview], int] = xxh3_64


def checksum(data: memoryview) -> int:
    """Return XXH3-64 of bytes, by the implementation that is set."""
    return implementation(data)
