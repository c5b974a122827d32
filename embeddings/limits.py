"""What decoding one recording may cost, and how a process is held to it.

A few bytes from a stranger can stand for days of sound, claim gigabytes, or make a decoder go round in circles. The
limits hold back a decoder that was led astray; they do not lock in one that was taken over: what a process may read,
and with whom it may talk, is not limited here.
"""

from __future__ import annotations

import math
import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

from embeddings.errors import InvalidAudio

#: Samples (frames x channels) of a second of sound: 8 channels at 48 kHz, or two at 192 kHz. Where a recording has more
#: of them, a second counts as so much more: 64 channels at 384 kHz, the most that is read, as 64 seconds.
SAMPLES_PER_S = 8 * 48_000


@dataclass(frozen=True)
class Limits:
    """What decoding one recording may cost.

    Attributes
    ----------
    max_hours : float
        Decoded hours (> 0), counted as `sound_s` does. YouTube takes recordings of up to 12.
    memory_bytes : int
        Address space beyond what the process has mapped when it is ready. 12 hours of M4A, which keeps the largest
        index, take 167 MiB, the damaged files of `scripts/fuzz_audio.py` as much; FFmpeg's own library is half of it.
    cpu_s, cpu_share : float
        Processor seconds for a recording: `cpu_s`, and `cpu_share` for each second of sound decoded. Honest files take
        0.001 (FLAC, mono) to 0.03 (Opus, eight channels) of one core.
    stall_s : float
        Seconds of wall clock without `PULSE_S` more of sound. To open a file, or to decode that much, takes less than
        one; the rest is for a disk in the network, and a machine with a hundred times too much to do.
    """

    max_hours: float = 12.0
    memory_bytes: int = 2**30
    cpu_s: float = 60.0
    cpu_share: float = 0.5
    stall_s: float = 120.0

    def __post_init__(self) -> None:
        values = (self.max_hours, self.memory_bytes, self.cpu_s, self.stall_s)
        if not all(0 < value < math.inf for value in values) or not 0 <= self.cpu_share < math.inf:
            raise ValueError(f"{self}: every limit must be a finite number > 0")

    def check_length(self, n_frames: int, n_samples: int, rate_hz: int) -> None:
        """Raise `InvalidAudio` ('limit') where a recording has too many frames, or samples (frames x channels)."""
        hours = sound_s(n_frames, n_samples, rate_hz) / 3600
        if hours <= self.max_hours:
            return
        if n_frames / rate_hz > 3600 * self.max_hours:
            too_much = f"{hours:.4g} hours or more, at most {self.max_hours:g} are read; cut it"
        else:
            max_samples = 3600 * self.max_hours * SAMPLES_PER_S
            too_much = (
                f"{n_samples:.4g} samples or more ({n_samples / n_frames:.0f} channels at {rate_hz} Hz), at most "
                f"{max_samples:.4g} are read ({self.max_hours:g} hours of 8 channels at 48 kHz); mix it down, cut it"
            )
        needed = math.ceil(max(hours, 2 * self.max_hours))
        raise InvalidAudio("limit", f"{too_much}, or read it with --max-hours {needed}")

    def processor_text(self) -> str:
        """Say what the processor limit is."""
        return f"{self.cpu_s:g} s of processor time and {self.cpu_share:g} s for each second decoded"


DEFAULT_LIMITS = Limits()

#: Seconds of sound between two signs of life of a process that decodes, and between two settings of its limit.
PULSE_S = 8.0


def sound_s(n_frames: int, n_samples: int, rate_hz: int) -> float:
    """Seconds that a recording counts as: its length, or its samples in seconds of `SAMPLES_PER_S`, if that is more."""
    return max(n_frames / rate_hz, n_samples / SAMPLES_PER_S)


def confine_process(limits: Limits) -> None:
    """Limit this process, for good, to `limits.memory_bytes` beyond what it has mapped, no core dump, no writing.

    What it has mapped is asked rather than assumed: it depends on the libraries' releases, and on the number of cores.
    """
    _lower(resource.RLIMIT_CORE, 0)  # a crash would leave the recording on the disk
    _lower(resource.RLIMIT_FSIZE, 0)  # nothing of what decodes has anything to write
    if sys.platform == "linux":  # elsewhere address space is limited in name only
        n_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        _lower(resource.RLIMIT_AS, n_pages * os.sysconf("SC_PAGE_SIZE") + limits.memory_bytes)


def allow_processor_s(used_s: float, more_s: float) -> None:
    """Let this process end by SIGXCPU once it has used `used_s` + `more_s` of processor time in all its life."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = math.ceil(used_s + more_s)
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _lower(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))
