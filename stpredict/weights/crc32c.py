"""The checksum CRC-32C (Castagnoli; RFC 3720, B.4), many bytes at a time.

A CRC without its initial value is linear over GF(2): of A followed by B it is ``zeros(crc(A), len(B)) ^ crc(B)``, where ``zeros``
appends zero bytes. So the data are cut into lanes of one length, which go forward together, and are joined two by two.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0x82F63B78  # reflected
_WORDS = 256  # of a lane, four bytes each
_PIECE = 4 << 20  # bytes at a time, so that the lanes stay in the processor's cache
_SHORT = 256

Words = NDArray[np.uint32]


def crc32c(data: memoryview | bytes) -> int:
    """Return the CRC-32C of bytes; a gigabyte takes seconds."""
    found = np.frombuffer(data, np.uint8)
    state = 0xFFFFFFFF
    whole = len(found) // 4 * 4 if len(found) >= _SHORT else 0
    for start in range(0, whole, _PIECE):
        words = found[start : min(start + _PIECE, whole)].view("<u4").astype(np.uint32)
        words[0] ^= state
        state = _join(words)
    table = _tables()[2]
    for byte in found[whole:].tolist():
        state = int(table[(state ^ byte) & 0xFF]) ^ (state >> 8)
    return state ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """Return a checksum as LevelDB tables and TensorFlow write it, so that a checksum of a checksum is another one."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _join(words: Words) -> int:
    """Return the CRC without initial value of some words."""
    lanes = 1 << max(0, -(-len(words) // _WORDS) - 1).bit_length()
    padded = np.zeros(lanes * _WORDS, np.uint32)
    padded[lanes * _WORDS - len(words) :] = words  # zeros in front change nothing
    columns = np.ascontiguousarray(padded.reshape(lanes, _WORDS).T)
    crcs = np.zeros(lanes, np.uint32)
    for column in columns:
        crcs = _four_zeros(crcs ^ column)
    level = 0
    while len(crcs) > 1:
        crcs = _apply(_append_zeros(level), crcs[::2]) ^ crcs[1::2]
        level += 1
    return int(crcs[0])


def _four_zeros(crcs: Words) -> Words:
    low, high, _ = _tables()
    joined: Words = low[crcs & 0xFFFF] ^ high[crcs >> 16]
    return joined


def _apply(matrix: Words, crcs: Words) -> Words:
    """Multiply a 32 x 32 matrix over GF(2), one word a column, with every CRC."""
    product = np.zeros_like(crcs)
    for bit in range(32):
        product ^= np.where((crcs >> np.uint32(bit)) & np.uint32(1), matrix[bit], np.uint32(0))
    return product


@cache
def _append_zeros(level: int) -> Words:
    """Return the matrix that appends the zeros of ``2 ** level`` lanes."""
    if level:
        half = _append_zeros(level - 1)
        return _apply(half, half)
    columns = np.uint32(1) << np.arange(32, dtype=np.uint32)
    for _ in range(_WORDS):
        columns = _four_zeros(columns)
    return columns


@cache
def _tables() -> tuple[Words, Words, Words]:
    """Return what four zero bytes make of the low and of the high half of a CRC, and what one makes of its low byte."""
    byte = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        byte = np.where(byte & 1, (byte >> 1) ^ np.uint32(_POLYNOMIAL), byte >> 1).astype(np.uint32)
    halves = []
    for shift in (0, 16):
        crcs = np.arange(1 << 16, dtype=np.uint32) << np.uint32(shift)
        for _ in range(4):
            crcs = byte[crcs & 0xFF] ^ (crcs >> np.uint32(8))
        halves.append(crcs)
    return halves[0], halves[1], byte
