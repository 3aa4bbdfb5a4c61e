"""Predict the astronomical tide at Harrow Point from the adopted harmonic constants.

The nightly run calls :func:`predict` once per day for the coming 40 days, and the quality control compares the gauge
with the result. Only prediction lives here: the constants come from the yearly analysis and are edited by hand
when a new set is adopted.

Conventions
-----------
* Times are UTC. Levels are metres above Gauge Zero.
* ``g`` is the phase lag on Greenwich in degrees, as printed in the yearly report.
* Nodal factors are evaluated in the middle of each day, which is accurate to well under a millimetre.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from math import cos, radians, sin

Z0 = 3.412
"""Mean level of the 2010-2019 analysis, metres above Gauge Zero."""


@dataclass(frozen=True)
class Constituent:
    """One harmonic line: Doodson multipliers of (T, s, h, p), phase offset, amplitude and Greenwich phase lag."""

    name: str
    t: int
    s: int
    h: int
    p: int
    offset: float
    amplitude: float
    g: float


CONSTITUENTS = (
    Constituent("M2", 2, -2, 2, 0, 0.0, 1.528, 143.6),
    Constituent("S2", 2, 0, 0, 0, 0.0, 0.531, 187.2),
    Constituent("N2", 2, -3, 2, 1, 0.0, 0.304, 124.9),
    Constituent("K2", 2, 0, 2, 0, 0.0, 0.151, 184.8),
    Constituent("K1", 1, 0, 1, 0, 90.0, 0.098, 168.3),
    Constituent("O1", 1, -2, 1, 0, -90.0, 0.082, 21.7),
    Constituent("M4", 4, -4, 4, 0, 0.0, 0.061, 312.5),
    Constituent("MS4", 4, -2, 2, 0, 0.0, 0.034, 2.4),
)

EPOCH = datetime(2000, 1, 1, 12, tzinfo=UTC)


def mean_longitudes(when: datetime) -> tuple[float, float, float, float]:
    """Mean longitudes in degrees: Moon ``s``, Sun ``h``, lunar perigee ``p`` and ascending node ``n``."""
    centuries = (when - EPOCH).total_seconds() / (86400.0 * 36525.0)
    s = 218.3165 + 481267.8813 * centuries
    h = 280.4661 + 36000.7698 * centuries
    p = 83.3532 + 4069.0137 * centuries
    n = 125.0445 - 1934.1363 * centuries
    return s % 360.0, h % 360.0, p % 360.0, n % 360.0


def nodal(name: str, n: float) -> tuple[float, float]:
    """Amplitude factor ``f`` and phase correction ``u`` (degrees) for the node longitude ``n``."""
    c, q = cos(radians(n)), sin(radians(n))
    if name in ("M2", "N2", "MS4"):
        return 1.0 - 0.037 * c, -2.1 * q
    if name == "M4":
        return (1.0 - 0.037 * c) ** 2, -4.2 * q
    if name == "K2":
        return 1.024 + 0.286 * c, -17.7 * q
    if name == "K1":
        return 1.006 + 0.115 * c, -8.9 * q
    if name == "O1":
        return 1.009 + 0.187 * c, 10.8 * q
    return 1.0, 0.0


def level(when: datetime) -> float:
    """The predicted level at one instant, metres above Gauge Zero."""
    s, h, p, n = mean_longitudes(when)
    hours = when.hour + when.minute / 60.0 + when.second / 3600.0
    t = 15.0 * hours  # the Sun's hour angle, counted from midnight
    total = Z0
    for line in CONSTITUENTS:
        f, u = nodal(line.name, n)
        argument = line.t * t + line.s * s + line.h * h + line.p * p + line.offset
        total += f * line.amplitude * cos(radians(argument + u - line.g))
    return total


def predict(times: Iterable[datetime]) -> list[float]:
    """Predicted levels for many instants, rounded to the millimetre that the archive stores."""
    return [round(level(when), 3) for when in times]


def high_waters(times: list[datetime]) -> list[tuple[datetime, float]]:
    """Turning points above mean level in an evenly spaced series; five-minute spacing is fine for the tables."""
    levels = predict(times)
    found = []
    for before, here, after, when in zip(levels, levels[1:], levels[2:], times[1:], strict=False):
        if before < here >= after and here > Z0:
            found.append((when, here))
    return found
