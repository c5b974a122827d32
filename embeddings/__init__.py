"""Recordings to numbers: audio, vocal windows, speaker embeddings. Knows no artist and no database."""
