"""Files that strangers might send, and a child process that does not keep to the protocol.

Everything is written byte by byte, so that a reader sees what is wrong with it; nothing here needs an encoder.
"""

from __future__ import annotations

import json
import os
import struct
import time
from itertools import accumulate
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from embeddings import workers

FLAC_BLOCK = 65535  # samples of a block, the most there can be


def _crc_table(polynomial: int, n_bits: int) -> list[int]:
    table = []
    for byte in range(256):
        crc = byte << (n_bits - 8)
        for _ in range(8):
            crc = (crc << 1) ^ (polynomial if crc >> (n_bits - 1) else 0)
            crc &= (1 << n_bits) - 1
        table.append(crc)
    return table


CRC8, CRC16 = _crc_table(0x07, 8), _crc_table(0x8005, 16)


def _crc8(data: bytes) -> int:
    return list(accumulate(data, lambda crc, byte: CRC8[crc ^ byte], initial=0))[-1]


def _crc16(data: bytes) -> int:
    return list(accumulate(data, lambda crc, byte: CRC16[(crc >> 8) ^ byte] ^ (crc << 8 & 0xFFFF), initial=0))[-1]


def flac_header(rate_hz: int = 8000, n_channels: int = 1, n_frames: int = 0) -> bytes:
    """The head of a FLAC file of 16 bits; 0 frames means "unknown"."""
    packed = rate_hz << 44 | (n_channels - 1) << 41 | 15 << 36 | n_frames
    return b"fLaC\x80\0\0\x22" + struct.pack(">HH6xQ16x", FLAC_BLOCK, FLAC_BLOCK, packed)


def flac_bomb(path: Path, hours: float, *, promised: bool = False) -> Path:
    """Mono at 8 kHz, level steps of 8 s: 14 bytes of FLAC each, 6 kB an hour."""
    n_blocks = round(hours * 3600 * 8000 / FLAC_BLOCK)
    data = [flac_header(n_frames=n_blocks * FLAC_BLOCK if promised else 0)]
    for number in range(n_blocks):
        # Sync, fixed block size; size in 16 bits at the end, rate as above; mono, 16 bits; number; size - 1.
        header = b"\xff\xf8\x70\x08" + chr(number).encode("utf-8", "surrogatepass") + struct.pack(">H", FLAC_BLOCK - 1)
        header += bytes([_crc8(header)])
        frame = header + b"\0" + struct.pack(">h", 3000 if number % 2 else -3000)  # one subframe: a constant
        data.append(frame + struct.pack(">H", _crc16(frame)))
    path.write_bytes(b"".join(data))
    return path


def _box(name: bytes, *content: bytes, claims: int | None = None) -> bytes:
    body = b"".join(content)
    return struct.pack(">I4s", 8 + len(body) if claims is None else claims, name) + body


def _mov(path: Path, description: bytes, tables: bytes, n_s: int, samples: bytes, *, claims: int | None = None) -> Path:
    """Put a sound of `n_s` seconds at 8 kHz into QuickTime; what holds the description `claims` to be so long."""
    duration = struct.pack(">4xIIII", 0, 0, 8000, n_s * 8000)
    stsd = _box(b"stsd", bytes(4), b"\0\0\0\1", description, claims=claims)
    stbl = _box(b"stbl", stsd, tables, claims=claims)
    minf = _box(b"minf", _box(b"smhd", bytes(8)), stbl, claims=claims)
    handler = _box(b"hdlr", bytes(8), b"soun", bytes(12))
    mdia = _box(b"mdia", _box(b"mdhd", duration, bytes(4)), handler, minf, claims=claims)
    tkhd = _box(b"tkhd", struct.pack(">IIIIII60x", 7, 0, 0, 1, 0, n_s * 8000))
    trak = _box(b"trak", tkhd, mdia, claims=claims)
    moov = _box(b"moov", _box(b"mvhd", duration, bytes(80)), trak, claims=claims)
    path.write_bytes(_box(b"ftyp", b"qt  ", bytes(4)) + _box(b"mdat", samples) + moov)
    return path


def mov_bomb(path: Path, hours: float) -> Path:
    """Samples of one second, and an index in which every second is that one: 4 bytes each, 14 kB an hour."""
    n_s, second = round(hours * 3600), np.arange(8000, dtype="<i2").tobytes()
    description = _box(b"sowt", struct.pack(">6xH8xHH4xI", 1, 1, 16, 8000 << 16))
    tables = (
        _box(b"stts", struct.pack(">4xIII", 1, n_s * 8000, 1))
        + _box(b"stsc", struct.pack(">4xIIII", 1, 1, 8000, 1))
        + _box(b"stsz", struct.pack(">4xII", 2, n_s * 8000))
        + _box(b"stco", struct.pack(">4xI", n_s), struct.pack(">I", 24) * n_s)
    )
    return _mov(path, description, tables, n_s, second)


def mov_claiming(path: Path, n_bytes: int) -> Path:
    """Give a codec's settings as `n_bytes` long: FFmpeg asks for the memory before it looks whether they are there."""
    settings = _box(b"alac", bytes(100), claims=n_bytes)
    description = _box(b"alac", struct.pack(">6xH8xHH4xI", 1, 1, 16, 8000 << 16), settings, claims=n_bytes + 36)
    return _mov(path, description, b"", 1, b"", claims=n_bytes + 1000)


def wav(
    path: Path,
    samples: bytes = bytes(range(256)) * 200,
    *,
    n_channels: int = 1,
    rate_hz: int = 16000,
    claims: int | None = None,
) -> Path:
    """A WAV of 16 bits whose header may say anything."""
    rate_bytes, frame_bytes = rate_hz * n_channels * 2 % 2**32, n_channels * 2 % 2**16
    n_bytes = len(samples) if claims is None else claims
    head = struct.pack(
        "<4sI8sIHHIIHH",
        b"RIFF",
        36 + n_bytes & 0xFFFFFFFF,
        b"WAVEfmt ",
        16,
        1,
        n_channels,
        rate_hz,
        rate_bytes,
        frame_bytes,
        16,
    )
    path.write_bytes(head + struct.pack("<4sI", b"data", n_bytes) + samples)
    return path


# -- a child that does not keep to the protocol ------------------------------------------------------------------------

WINDOW = np.zeros((1, 64000), np.float32)


def message(header: Any, samples: np.ndarray | bytes = b"") -> bytes:
    """A message as it goes over the pipe; a header that is bytes goes as it is."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    data = samples if isinstance(samples, bytes) else samples.tobytes()
    return struct.pack("<II", len(text), len(data)) + text + data


def answer_with(answer: bytes, connection: Connection, pulse: Connection, *_: Any) -> None:
    """Take the place of `workers._decode_forever`: whatever is asked, answer this, and go on for a while."""
    while True:
        os.read(connection.fileno(), 2**16)
        os.write(connection.fileno(), answer)
        os.write(pulse.fileno(), b"." * 1000)
        time.sleep(0.01)


def exit_with(code: int, connection: Connection, *_: Any) -> None:
    """End when asked for anything."""
    os.read(connection.fileno(), 2**16)
    os._exit(code)


def hang_up(connection: Connection, *_: Any) -> None:
    """Close the pipe and live on."""
    os.read(connection.fileno(), 2**16)
    connection.close()
    time.sleep(60)


def decode_at_another_rate(connection: Connection, pulse: Connection, rate_hz: int, *rest: Any) -> None:
    """Decode as ours does, but at a rate at which no voice can be looked for."""
    workers._decode_forever(connection, pulse, rate_hz + 1, *rest)


def work_for_ever(connection: Connection, pulse: Connection, *_: Any) -> None:
    """Give signs of life and never an answer."""
    while True:
        os.write(pulse.fileno(), b".")
        time.sleep(0.001)
