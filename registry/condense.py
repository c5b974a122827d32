"""Many window vectors to the few templates that stand for them."""

from __future__ import annotations

import numpy as np

#: Templates kept per artist: enough for several styles and registers, few enough for 100,000 artists to fit in memory.
MAX_TEMPLATES = 8

#: Windows that one template should stand for at least; a template of one or two windows is mostly chance.
WINDOWS_PER_TEMPLATE = 4

#: Passes after which k-means stops if it has not settled; it settles in about ten on our data.
MAX_PASSES = 50


def condense_windows(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Condense window vectors into templates by spherical k-means.

    The first centre is the window nearest to the mean, each next one the window farthest from its nearest centre, so
    that the same windows always give the same templates.

    Parameters
    ----------
    windows : (n, dim) float32
        Unit rows, n >= 1.

    Returns
    -------
    templates : (k, dim) float32
        Unit rows, 1 <= k <= `MAX_TEMPLATES`.
    medoids : (k,) int64
        Row of the window nearest to each template: what a person should listen to.
    counts : (k,) int64
        Windows that each template stands for.

    Raises
    ------
    ValueError
        No rows.

    References
    ----------
    Dhillon and Modha 2001, Concept decompositions for large sparse text data using clustering, section 3.
    """
    n = len(windows)
    if n == 0:
        raise ValueError("no windows to condense")
    k = min(MAX_TEMPLATES, max(1, n // WINDOWS_PER_TEMPLATE))
    centres = windows[_spread(windows, k)]
    label = np.full(n, -1)
    for _ in range(MAX_PASSES):
        nearest = np.argmax(windows @ centres.T, axis=1)
        if np.array_equal(nearest, label):
            break
        label = nearest
        sums = np.zeros_like(centres)
        np.add.at(sums, label, windows)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(norms > 1e-6, sums / np.maximum(norms, 1e-6), centres)
    used = np.unique(label)
    similarities = np.where(label[:, None] == used[None, :], windows @ centres[used].T, -np.inf)
    return (
        centres[used].astype(np.float32),
        np.argmax(similarities, axis=0).astype(np.int64),
        np.bincount(label, minlength=k)[used].astype(np.int64),
    )


def _spread(windows: np.ndarray, k: int) -> list[int]:
    """Rows of k windows far from one another."""
    chosen = [int(np.argmax(windows @ windows.mean(axis=0)))]
    nearest = windows @ windows[chosen[0]]
    while len(chosen) < k:
        chosen.append(int(np.argmin(nearest)))
        nearest = np.maximum(nearest, windows @ windows[chosen[-1]])
    return chosen
