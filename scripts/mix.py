"""Put music under a voice at a level, as the benchmarks do, to try a query on it.

    python scripts/mix.py VOICE MUSIC LEVEL_DB OUT.wav

LEVEL_DB is how far the voice lies above the music, measured where the voice sounds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import soundfile
from trial_audio import RATE_HZ, active_samples, load_mono, loop_from, mix_at_level


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("voice", type=Path)
    parser.add_argument("music", type=Path)
    parser.add_argument("level_db", type=float)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    voice = load_mono(arguments.voice)
    music = loop_from(load_mono(arguments.music), 0, len(voice))
    mixed = mix_at_level(voice, music, arguments.level_db, active_samples(voice))
    soundfile.write(arguments.out, mixed, RATE_HZ, subtype="PCM_16")


if __name__ == "__main__":
    main()
