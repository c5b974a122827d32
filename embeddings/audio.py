"""A recording as a stream: file -> mono float32 blocks at the encoder's rate.

libsndfile decodes WAV, AIFF, AU, CAF, W64, FLAC, Ogg Vorbis, Opus and MP3; PyAV (FFmpeg, the extra ``[media]``) what
libsndfile cannot, or cannot to the end: M4A/MP4, AAC, ALAC, WMA, WebM, MP3 without a length header, chained Ogg. Which
of the two decodes a file follows from the file alone, never from what is installed, so an id means the same everywhere.

Channels are averaged, none is dropped. A voice in one of two channels comes out 6 dB lower and otherwise untouched. A
voice in opposite phase in both (antiphase) cancels: if nothing else is left the file is refused as 'silent', saying so;
if something else is left, the stream carries only that.

Files come from strangers. Only regular files are opened, and everything is read from that one descriptor. A file is
decoded to its end or refused; where an end cannot be checked, it is said here: WAV and AIFF are measured against their
header (a length of 0 or about 2 or 4 GiB is a streaming writer's "unknown"), MP3 and FLAC against the length in theirs
(MP3 and Ogg within `LOSSY_SLACK_FRAMES`), MP4 and audio-only Matroska against theirs (within `MEDIA_SLACK_S`), Ogg by
its last page. Not noticed: Ogg cut exactly between two pages; ADTS AAC, WMA, and MP3 without a length header, cut
exactly between two frames; AU, CAF and W64 that end early where libsndfile mends them. How much sound is decoded is
limited here; time, memory and processor are limited by the process that runs this (`embeddings/workers.py`).
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import stat
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import soundfile
import soxr

from embeddings.errors import InvalidAudio
from embeddings.headers import cut_short, mp3_states_length, ogg_is_chained, riff_length_missing
from embeddings.limits import DEFAULT_LIMITS, Limits, sound_s

#: Changes when the numbers would: part of every `encoder_id`. Releases of the decoders and of soxr are left out on
#: purpose (a patch release would orphan every vector); `embeddings/selftest.py` notices if one of them moves.
FRONT_END = "mono-mean soxr-hq-float32 1"

#: How files that are likely recordings end; for searching folders. A file that is named is opened whatever its ending.
SUFFIXES = frozenset(
    {
        ".wav",
        ".wave",
        ".aif",
        ".aiff",
        ".aifc",
        ".flac",
        ".ogg",
        ".oga",
        ".opus",
        ".mp3",
        ".m4a",
        ".mp4",
        ".aac",
        ".au",
        ".caf",
        ".w64",
        ".rf64",
        ".wma",
        ".webm",
        ".mka",
        ".alac",
    }
)

MIN_RATE_HZ, MAX_RATE_HZ = 8_000, 384_000  # telephone; twice the highest rate in common use
MAX_CHANNELS = 64  # seventh-order ambisonics
NOT_AUDIO = "not audio, or of a format that Likeness cannot read; no decoder recognises it"
SILENCE_PEAK = 1e-4  # of full scale (-80 dBFS): three steps of 16 bits; a choice, not a measurement
MAX_PEAK = 2.0**31  # a float file in the scale of integers is read as it is; more would overflow the resampler
PIECE_SAMPLES = 2**18  # frames x channels decoded at a time, 1 MiB: 64 channels at 384 kHz cost what mono does
MAX_FRAME_SAMPLES = 2**22  # frames x channels in one FFmpeg frame, 16 MiB; real ones have up to 2**19
LOSSY_SLACK_FRAMES = 2 * 1152  # two MPEG frames: some encoders count the header frame or the decoder's delay
MEDIA_SLACK_S = 0.25  # room for edit lists and encoder delay; a choice, not a measurement
UNKNOWN_FRAMES = 2**62  # from here on libsndfile means that the file does not say
MAX_UNREAD_BYTES = 8192  # tags and padding after the audio; in Opus at 20 kbit/s this would be 3 s

# Everything else that libsndfile knows is a sampler's or a laboratory's format, some recognised by two bytes.
LIBSNDFILE_FORMATS = {"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3", "NIST"}
# An `ffconcat` script or playlist named .m4a makes FFmpeg open other files: only formats that hold their own audio.
FFMPEG_OPTIONS = {
    "format_whitelist": "aac,aiff,amr,asf,caf,flac,matroska,mov,mp3,ogg,wav,wv",
    "protocol_whitelist": "none",  # a name that no protocol has: nothing but our own file object is ever read
    "codec_whitelist": "aac,alac,mp3float,mp3,mp2float,opus,libopus,vorbis,flac,wavpack,ac3,eac3,wmav1,wmav2,wmapro,"
    "amrnb,amrwb,gsm_ms,adpcm_ms,adpcm_ima_wav,adpcm_ima_qt,pcm_u8,pcm_s8,pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,"
    "pcm_s32le,pcm_s32be,pcm_f32le,pcm_f32be,pcm_f64le,pcm_f64be,pcm_alaw,pcm_mulaw",  # no video decoder is opened
}
# What FFmpeg might read begins like this; asked only to say "install it" rather than "not audio" where it is absent.
_MEDIA_MAGIC = re.compile(
    rb"....(?:ftyp|moov|mdat|wide|free|skip)|\x1aE\xdf\xa3|0&\xb2u\x8ef\xcf\x11|\xff[\xe2-\xff]|ID3|RIFF|RF64|BW64"
    rb"|FORM|OggS|fLaC|caff|wvpk|#!AMR",
    re.DOTALL,
)

Pieces = Generator[np.ndarray, None, None]


@dataclass(frozen=True)
class AudioInfo:
    """What the file is: its container and codec ("WAV/PCM_16", "MOV/AAC"), rate and channels."""

    format: str
    source_rate_hz: int
    channels: int


class AudioStream:
    """Mono float32 blocks of one recording, in order, once; made by `open_audio`.

    Iterating yields (n,) float32 blocks at `rate_hz`, full scale 1.0, all of `block_s` but the last. `duration_s` and
    `content_id` exist once every block has been taken. Whatever only shows at the end (cut short, silent) is raised
    there, so nothing may be kept of a stream that did not end.
    """

    def __init__(
        self,
        path: Path,
        info: AudioInfo,
        pieces: Pieces,
        resources: ExitStack,
        rate_hz: int,
        block_s: float,
        limits: Limits,
        on_read: Callable[[float], None] | None,
    ) -> None:
        """Take over `resources`, which hold the open file."""
        self.path = path
        self.info = info
        self.rate_hz = rate_hz
        self._limits, self._on_read = limits, on_read
        self._block_samples = max(1, round(block_s * rate_hz))
        self._resources = resources
        self._resources.callback(pieces.close)
        self._blocks = self._read(pieces)
        self._outcome: tuple[float, str] | None = None

    @property
    def duration_s(self) -> float:
        """Seconds of the recording, counted in decoded frames."""
        return self._finished("duration_s")[0]

    @property
    def content_id(self) -> str:
        """Hex sha256 over the source rate (4 bytes) and the mono int16 samples before resampling, little-endian.

        The same PCM has the same id as WAV, FLAC or ALAC, whatever its tags. Lossy files have the id of what this
        decoder makes of them.
        """
        return self._finished("content_id")[1]

    def _finished(self, name: str) -> tuple[float, str]:
        if self._outcome is None:
            raise RuntimeError(f"{name} of {self.path} is known only once every block has been read")
        return self._outcome

    def __iter__(self) -> Iterator[np.ndarray]:
        """Iterate once over the blocks."""
        return self

    def __next__(self) -> np.ndarray:
        """Decode up to the next block."""
        return next(self._blocks)

    def __enter__(self) -> AudioStream:
        """Close the file at the end of the ``with``."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file; safe to repeat. Reading to the end closes it as well."""
        self._blocks.close()
        self._resources.close()

    def _read(self, pieces: Pieces) -> Pieces:
        rate_hz = self.info.source_rate_hz
        resampler = None
        if rate_hz != self.rate_hz:
            resampler = soxr.ResampleStream(rate_hz, self.rate_hz, 1, dtype="float32", quality="HQ")
        digest = hashlib.sha256(rate_hz.to_bytes(4, "little"))
        n_frames, n_samples, peak, mono_peak = 0, 0, 0.0, 0.0
        pending: list[np.ndarray] = []
        n_pending = 0
        with self._resources, _naming(self.path):
            for piece in pieces:
                piece_peak = float(np.abs(piece).max())
                if not piece_peak <= MAX_PEAK:  # also true of NaN
                    raise InvalidAudio(
                        "not_finite",
                        f"a sample of {piece_peak:g} after {n_frames / rate_hz:.1f} s, finite samples up to "
                        f"{MAX_PEAK:g} are read; export the recording again",
                    )
                mono = _mix(piece)
                digest.update(np.rint(mono * 32768.0).clip(-32768, 32767).astype("<i2").tobytes())
                n_frames, n_samples = n_frames + len(mono), n_samples + piece.size
                self._limits.check_length(n_frames, n_samples, rate_hz)
                if self._on_read is not None:
                    self._on_read(sound_s(n_frames, n_samples, rate_hz))
                peak, mono_peak = max(peak, piece_peak), max(mono_peak, float(np.abs(mono).max()))
                pending.append(mono if resampler is None else resampler.resample_chunk(mono))
                n_pending += len(pending[-1])
                if n_pending >= self._block_samples:
                    joined = np.concatenate(pending)
                    n_whole = n_pending - n_pending % self._block_samples
                    yield from np.split(joined[:n_whole], n_whole // self._block_samples)
                    pending, n_pending = [joined[n_whole:].copy()], n_pending - n_whole
            _check_audible(n_frames, n_frames / rate_hz, peak, mono_peak)
            if resampler is not None:
                pending.append(resampler.resample_chunk(np.empty(0, np.float32), last=True))
            rest = np.concatenate(pending)
            for start in range(0, len(rest), self._block_samples):
                yield rest[start : start + self._block_samples]
            self._outcome = n_frames / rate_hz, digest.hexdigest()


def open_audio(
    path: Path,
    rate_hz: int = 16000,
    block_s: float = 8.0,
    *,
    limits: Limits = DEFAULT_LIMITS,
    on_read: Callable[[float], None] | None = None,
) -> AudioStream:
    """Open a recording of any length as a stream of mono blocks, in bounded memory.

    Parameters
    ----------
    path : Path
        A regular file; its name and extension are not consulted.
    rate_hz : int
        Rate of the blocks (> 0); the audio is resampled with soxr, quality HQ, in float32.
    block_s : float
        Length of the blocks in seconds (> 0); the last may be shorter.
    limits : Limits
        Of these, `max_hours` is kept here.
    on_read : callable, optional
        Called often, with the seconds of sound decoded so far, as `limits.sound_s` counts them.

    Returns
    -------
    AudioStream
        Iterate over it in a ``with``.

    Raises
    ------
    InvalidAudio
        With the path and one of `INVALID_AUDIO_KINDS`, here or while iterating.
    """
    if not rate_hz > 0 or not block_s > 0:
        raise ValueError(f"rate_hz and block_s must be > 0, not {rate_hz} and {block_s}")
    path = Path(path)
    with ExitStack() as resources, _naming(path):
        file = resources.enter_context(_open_regular(path))
        info, promised, pieces = _open_libsndfile(file, resources) or _open_ffmpeg(file, resources)
        limits.check_length(promised, promised * info.channels, info.source_rate_hz)  # rather than hours from now
        return AudioStream(path, info, pieces, resources.pop_all(), rate_hz, block_s, limits, on_read)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the path into the errors of the functions below, which know only the descriptor."""
    try:
        yield
    except InvalidAudio as error:
        raise InvalidAudio(error.kind, error.reason, path) from error
    except OSError as error:  # a disk that fails, a server that went away
        raise InvalidAudio("unreadable", f"cannot be read: {error.strerror}; copy it to another disk", path) from error


def _mix(piece: np.ndarray) -> np.ndarray:
    """Average (n, channels) to (n,) float32; in float64, where sums of integer PCM are exact in any order."""
    if piece.shape[1] == 1:
        return np.ascontiguousarray(piece[:, 0])
    return np.asarray(piece.sum(axis=1, dtype=np.float64) / piece.shape[1], np.float32)


def _check_audible(n_frames: int, duration_s: float, peak: float, mono_peak: float) -> None:
    if n_frames == 0:
        raise InvalidAudio("empty", "a header and no samples; record or export it again")
    if mono_peak < SILENCE_PEAK <= peak:
        raise InvalidAudio(
            "silent", f"the channels (peak {peak:.2g}) cancel when averaged: antiphase; invert or give one of them"
        )
    if mono_peak < SILENCE_PEAK:
        raise InvalidAudio(
            "silent",
            f"it is silent: peak {mono_peak:.2g} of full scale in {duration_s:.1f} s, "
            f"at least {SILENCE_PEAK:g} is needed",
        )


def _check_limits(rate_hz: int, channels: int) -> None:
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise InvalidAudio(
            "unsupported", f"sample rate {rate_hz} Hz, {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz are read; resample it"
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise InvalidAudio("unsupported", f"{channels} channels, at most {MAX_CHANNELS} are read; mix it down")


def _open_regular(path: Path) -> io.FileIO:
    """Open without waiting (a FIFO would hang for ever), and refuse what is not a file with bytes in it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InvalidAudio("missing", "there is no such file") from error
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENODEV):  # a socket, or a device without a driver
            raise InvalidAudio("not_a_file", "a socket or device, not a regular file") from error
        advice = "check its permissions" if error.errno in (errno.EACCES, errno.EPERM) else "give another path to it"
        raise InvalidAudio("unreadable", f"cannot be read: {error.strerror}; {advice}") from error
    except ValueError as error:  # a NUL in the path
        raise InvalidAudio("missing", f"no file can have this name: {error}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            names = {stat.S_IFDIR: "folder", stat.S_IFIFO: "FIFO", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}
            name = names.get(stat.S_IFMT(status.st_mode), "special file")
            raise InvalidAudio("not_a_file", f"a {name}, not a regular file")
        if status.st_size == 0:
            raise InvalidAudio("empty", "0 bytes; copy or download it again")
        return io.FileIO(descriptor, "rb")  # owns the descriptor from here on
    except BaseException:
        os.close(descriptor)
        raise


def _open_libsndfile(file: io.FileIO, resources: ExitStack) -> tuple[AudioInfo, int, Pieces] | None:
    """Decode with libsndfile; None where it cannot, or would stop before the end without a word.

    The number is of the frames that the header promises, 0 where it promises none.
    """
    descriptor, size = file.fileno(), os.fstat(file.fileno()).st_size
    if riff_length_missing(descriptor, size):
        return None
    try:
        sound = resources.enter_context(soundfile.SoundFile(descriptor, closefd=False))
    except soundfile.SoundFileError:
        return None
    if (
        sound.format not in LIBSNDFILE_FORMATS
        or (sound.format == "MP3" and not mp3_states_length(descriptor))
        or (sound.format == "OGG" and ogg_is_chained(descriptor, size))
    ):
        return None
    _check_limits(sound.samplerate, sound.channels)
    # soundfile seeks after every read of a seekable file, which fails on a FLAC stream of unknown length.
    sound.seekable = lambda: False
    info = AudioInfo(f"{sound.format}/{sound.subtype}", sound.samplerate, sound.channels)
    return info, sound.frames if sound.frames < UNKNOWN_FRAMES else 0, _read_libsndfile(sound, descriptor, size)


def _read_libsndfile(sound: Any, descriptor: int, size: int) -> Pieces:
    promised = sound.frames
    n_frames = 0
    while n_frames < promised:
        n_wanted = min(max(1, PIECE_SAMPLES // sound.channels), promised - n_frames)
        try:
            piece = sound.read(n_wanted, dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise cut_short(f"decoding fails after {n_frames / sound.samplerate:.1f} s ({error})") from error
        if not len(piece):
            break
        n_frames += len(piece)
        yield piece
    slack = LOSSY_SLACK_FRAMES if sound.format in ("MP3", "OGG") else 0
    if promised < UNKNOWN_FRAMES and promised - n_frames > slack:
        raise cut_short(f"the header promises {promised} frames, {n_frames} could be decoded")
    if sound.format in ("MP3", "OGG", "FLAC"):
        # A header that says too little (files joined end to end, or made to hide a voice) stops libsndfile, no player.
        position = os.lseek(descriptor, 0, os.SEEK_CUR)
        tag = os.pread(descriptor, 16, position)
        if tag.startswith(b"APETAGEX") and len(tag) == 16:  # with a picture in it, larger than the limit
            position += 32 + int.from_bytes(tag[12:], "little")
        if size - position > MAX_UNREAD_BYTES:
            raise InvalidAudio(
                "unsupported",
                f"the header promises {n_frames / sound.samplerate:.1f} s, yet {size - position} bytes follow "
                f"(at most {MAX_UNREAD_BYTES}); were files joined? Export it again in one piece",
            )


def _open_ffmpeg(file: io.FileIO, resources: ExitStack) -> tuple[AudioInfo, int, Pieces]:
    """Decode with FFmpeg, which gets our file object and may open nothing else; the number is as above."""
    head = os.pread(file.fileno(), 16, 0)
    file.seek(0)
    try:
        import av
    except ImportError as error:
        if _MEDIA_MAGIC.match(head):
            reason = "libsndfile cannot read this file to its end; FFmpeg may: pip install 'likeness[media]'"
            raise InvalidAudio("unsupported", reason) from error
        raise InvalidAudio("not_audio", NOT_AUDIO) from error
    is_mp4 = head[4:8] == b"ftyp"
    with _failing_as(
        cut_short("an MP4 whose index (moov) is missing or broken") if is_mp4 else InvalidAudio("not_audio", NOT_AUDIO)
    ):
        container: Any = resources.enter_context(
            av.open(file, container_options=FFMPEG_OPTIONS, metadata_errors="ignore")
        )
    stream = container.streams.best("audio")
    if stream is None:
        raise InvalidAudio("not_audio", f"no audio in this file ({container.format.long_name})")
    codec = stream.codec_context
    name = "of an unknown kind" if codec is None else codec.name
    if name not in FFMPEG_OPTIONS["codec_whitelist"].split(","):
        raise InvalidAudio("unsupported", f"codec {name} is not among those read; convert it to WAV or FLAC")
    codec.options = {"max_samples": str(MAX_FRAME_SAMPLES // max(1, codec.channels))}
    codec.thread_count = 1  # workers are processes
    frames = container.decode(stream)
    with _failing_as(InvalidAudio("not_audio", f"not one frame of {name} can be decoded")):
        first = next(frames, None)
    if first is None:
        raise InvalidAudio("empty", "a header and no samples; record or export it again")
    # The rate is the first frame's: a header does not know of spectral band replication (HE-AAC), which doubles it.
    _check_limits(first.sample_rate, first.layout.nb_channels)
    format_name = container.format.name.split(",")[0]
    promised_s = 0.0
    if format_name == "mov" and stream.duration:
        promised_s = float(stream.duration * stream.time_base)
    elif format_name == "matroska" and len(container.streams) == 1 and container.duration:
        promised_s = container.duration / 1e6
    info = AudioInfo(f"{format_name}/{name}".upper(), first.sample_rate, first.layout.nb_channels)
    return info, round(promised_s * info.source_rate_hz), _read_ffmpeg(first, frames, promised_s)


@contextmanager
def _failing_as(wrong: InvalidAudio) -> Iterator[None]:
    """Raise `wrong` for FFmpeg's errors, and for what our file object raises when a broken file seeks before its start.

    Not for want of memory, which FFmpeg reports by an error that is both its own and Python's.
    """
    import av

    try:
        yield
    except MemoryError:
        raise
    except (av.FFmpegError, OSError, ValueError) as error:
        raise wrong from error


def _read_ffmpeg(frame: Any, frames: Iterator[Any], promised_s: float) -> Pieces:
    rate_hz, n_frames = frame.sample_rate, 0
    while frame is not None:
        if frame.sample_rate != rate_hz:
            changes = f"from {rate_hz} to {frame.sample_rate} Hz after {n_frames / rate_hz:.1f} s"
            raise InvalidAudio("unsupported", f"the sample rate changes {changes}; convert it to WAV or FLAC")
        n_frames += frame.samples
        if frame.samples:
            yield _as_float(frame)
        with _failing_as(cut_short(f"decoding fails after {n_frames / rate_hz:.1f} s")):
            frame = next(frames, None)
    if promised_s - n_frames / rate_hz > MEDIA_SLACK_S:
        raise cut_short(f"the header promises {promised_s:.1f} s, {n_frames / rate_hz:.1f} s could be decoded")


def _as_float(frame: Any) -> np.ndarray:
    """Give an FFmpeg frame as (n, channels) float32, full scale 1.0, scaled as libsndfile does."""
    samples = frame.to_ndarray()  # (channels, n), or (1, n * channels) where the channels are interleaved
    samples = samples.T if frame.format.is_planar else samples.reshape(-1, frame.layout.nb_channels)
    if samples.dtype.kind == "f":
        with np.errstate(over="ignore"):  # becomes inf, which is refused
            return np.asarray(samples, np.float32)
    offset = 128.0 if samples.dtype.kind == "u" else 0.0
    full_scale = 2.0 ** (8 * samples.dtype.itemsize - 1)
    return np.asarray((samples.astype(np.float32) - np.float32(offset)) / np.float32(full_scale))
