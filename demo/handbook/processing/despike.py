"""Find spikes in a residual series with a running median and the median absolute deviation.

A spike is a value far from its neighbours, in units of the neighbours' own spread. The ordinary mean and standard
deviation would be pulled along by the spike that they are meant to find; medians are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

MAD_TO_SIGMA = 1.4826
"""Turns a median absolute deviation into a standard deviation, for normally distributed values."""


def running_median(values: Sequence[float], width: int = 9) -> list[float]:
    """Median over a centred window; at both ends the window is cut short rather than padded."""
    if width % 2 == 0 or width < 3:
        raise ValueError("the width must be odd and at least 3")
    half = width // 2
    return [median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


def spikes(values: Sequence[float], width: int = 9, factor: float = 4.0, floor: float = 0.06) -> list[int]:
    """Indices of the spikes.

    A value is a spike when it differs from the running median by more than ``factor`` robust standard deviations and
    by more than ``floor`` metres. The floor keeps the test quiet in flat calm, where the spread is a millimetre and
    every passing boat would count.
    """
    smooth = running_median(values, width)
    departure = [abs(value - middle) for value, middle in zip(values, smooth, strict=True)]
    half = width // 2
    found = []
    for i, distance in enumerate(departure):
        spread = MAD_TO_SIGMA * median(departure[max(0, i - half) : i + half + 1])
        if distance > max(factor * spread, floor):
            found.append(i)
    return found


def repair(values: Sequence[float], indices: Sequence[int]) -> list[float]:
    """A copy with the given points replaced by straight lines between their good neighbours. For plots only."""
    bad = set(indices)
    good = [i for i in range(len(values)) if i not in bad]
    if not good:
        raise ValueError("no good value is left")
    result = list(values)
    for i in sorted(bad):
        left = max((j for j in good if j < i), default=None)
        right = min((j for j in good if j > i), default=None)
        if left is None:
            result[i] = values[right]
        elif right is None:
            result[i] = values[left]
        else:
            share = (i - left) / (right - left)
            result[i] = values[left] + share * (values[right] - values[left])
    return result
