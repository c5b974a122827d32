"""What a file's header and last page say of its length, where libsndfile would stop early without a word."""

from __future__ import annotations

import os
import re
import struct

from embeddings.errors import InvalidAudio


def cut_short(reason: str) -> InvalidAudio:
    """Return the error for a recording that ends too early."""
    return InvalidAudio("truncated", f"{reason}; damaged or cut short, get a complete copy")


def riff_length_missing(descriptor: int, size: int) -> bool:
    """Compare the header of a WAV or AIFF with the size of the file, because libsndfile mends it without a word.

    True where a WAV gives 0 as its length and samples follow: FFmpeg reads those to the end, libsndfile none of them.
    """
    head = os.pread(descriptor, 12, 0)
    if head[:4] in (b"RIFF", b"RF64", b"BW64", b"RIFX") and head[8:] == b"WAVE":
        number, wanted = (">I" if head[:4] == b"RIFX" else "<I"), b"data"
    elif head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        number, wanted = ">I", b"SSND"
    else:
        return False
    position, n_bytes_64 = 12, None
    for _ in range(10_000):  # as many chunks as no honest file has
        chunk = os.pread(descriptor, 24, position)
        if len(chunk) < 8:
            break
        (n_bytes,) = struct.unpack(number, chunk[4:8])
        if chunk[:4] == b"ds64" and len(chunk) == 24:
            (n_bytes_64,) = struct.unpack("<Q", chunk[16:])
        if chunk[:4] == wanted:
            if n_bytes == 0xFFFFFFFF and n_bytes_64 and n_bytes_64 < 2**62:
                n_bytes = n_bytes_64
            elif n_bytes >= 0xFFFF0000 or 0x7FFF0000 <= n_bytes <= 0x80000000:
                # A stream: FFmpeg writes 0xFFFFFFFF (seen); SoX, GStreamer and arecord about 2 GiB (not tried).
                return False
            if position + 8 + n_bytes > size:
                raise cut_short(f"the header promises {n_bytes} bytes of samples, {size - position - 8} are here")
            # Another chunk in the place of the samples: there really are none.
            return wanted == b"data" and n_bytes == 0 and len(chunk) > 8 and not chunk[8:12].strip().isalnum()
        position += 8 + n_bytes + n_bytes % 2
    if position > size:
        raise cut_short(f"a chunk of the header ends at byte {position}, the file at {size}")
    return False


def mp3_states_length(descriptor: int) -> bool:
    """Look for a Xing or Info header with a frame count; without it mpg123 guesses, and libsndfile stops there."""
    position = 0
    while (tag := os.pread(descriptor, 10, position))[:3] == b"ID3" and len(tag) == 10:
        n_bytes = tag[6] << 21 | tag[7] << 14 | tag[8] << 7 | tag[9]
        position += 10 + n_bytes + (10 if tag[5] & 0x10 else 0)
    frame = os.pread(descriptor, 64, position)
    return re.search(rb"(?:Xing|Info)\0\0\0[\x01\x03\x05\x07\x09\x0b\x0d\x0f]", frame) is not None


def ogg_is_chained(descriptor: int, size: int) -> bool:
    """Look at the last page: raise if it is cut, True if it is of another stream (libsndfile reads only the first)."""
    tail = os.pread(descriptor, 66_000, max(0, size - 66_000))  # a page has at most 65,307 bytes
    page = tail[max(0, tail.rfind(b"OggS\0")) :]
    if not page.startswith(b"OggS\0"):
        return False
    n_segments = page[26] if len(page) > 26 else 255
    if 27 + n_segments + sum(page[27 : 27 + n_segments]) > len(page):
        raise cut_short("the last page of this Ogg file is incomplete")
    return page[14:18] != os.pread(descriptor, 4, 14)
