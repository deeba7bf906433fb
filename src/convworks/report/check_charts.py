"""The drawings of a check's page: sizes as a scatter, brightness, contrast and colour as histograms.

Plain SVG text in the page's CSS colours. No name from the data enters a drawing.
"""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

WIDE, SMALL = (520, 330), (330, 220)  # of the scatter and of a histogram
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 12, 44
PER_DECADE = 40  # cells of the scatter in which pictures are counted together
BINS = 32
TICKS = (1, 2, 5)


def size_scatter(sizes: Sequence[tuple[int, int]]) -> str:
    """Width against height on logarithmic scales; a dot for pictures of nearly one size. '' for none."""
    if not sizes:
        return ""
    cells = Counter((round(math.log10(w) * PER_DECADE), round(math.log10(h) * PER_DECADE)) for h, w in sizes)
    wide, tall = WIDE
    low = min(min(cell) for cell in cells) / PER_DECADE - 0.15
    high = max(max(cell) for cell in cells) / PER_DECADE + 0.15

    def at(value: float, start: float, end: float) -> float:
        return start + (value - low) / (high - low) * (end - start)

    def x(value: float) -> float:
        return at(value, LEFT, wide - RIGHT)

    def y(value: float) -> float:
        return at(value, tall - BOTTOM, TOP)

    parts = []
    for tick in _log_ticks(low, high):
        place = math.log10(tick)
        parts.append(
            _line(x(place), TOP, x(place), tall - BOTTOM) + _line(LEFT, y(place), wide - RIGHT, y(place))
        )
        parts.append(_text(x(place), tall - BOTTOM + 16, f"{tick:,}", "middle"))
        parts.append(_text(LEFT - 6, y(place) + 4, f"{tick:,}", "end"))
    parts.append(
        f'<line x1="{x(low):.1f}" y1="{y(low):.1f}" x2="{x(high):.1f}" y2="{y(high):.1f}" '
        'stroke="var(--muted)" stroke-dasharray="3 4"/>'
    )
    most = max(cells.values())
    for (across, down), number in sorted(cells.items(), key=lambda cell: -cell[1]):
        radius = 3 + 9 * math.sqrt(number / most) if most > 1 else 4
        parts.append(
            f'<circle cx="{x(across / PER_DECADE):.1f}" cy="{y(down / PER_DECADE):.1f}" r="{radius:.1f}" '
            'fill="var(--r4)" fill-opacity=".55" stroke="var(--val)"/>'
        )
    parts += _axis_names("width in pixels", "height in pixels", WIDE)
    widths, heights = [w for _, w in sizes], [h for h, _ in sizes]
    alt = (
        f"Width and height of {len(sizes):,} pictures: widths from {min(widths):,} to {max(widths):,}, "
        f"heights from {min(heights):,} to {max(heights):,} pixels."
    )
    return _svg(parts, alt, WIDE)


def histogram(values: NDArray[np.float64], *, name: str, low: float, high: float) -> str:
    """Pictures by one number; values beyond the ends stand in the last bars. '' for none."""
    if not len(values):
        return ""
    wide, tall = SMALL
    counts, edges = np.histogram(np.clip(values, low, high), bins=BINS, range=(low, high))
    most = int(counts.max())
    width = (wide - LEFT - RIGHT) / BINS
    floor = tall - BOTTOM
    parts = []
    for tick in _linear_ticks(most):
        place = floor - tick / most * (floor - TOP)
        parts.append(_line(LEFT, place, wide - RIGHT, place) + _text(LEFT - 6, place + 4, f"{tick:,}", "end"))
    for place, number in enumerate(counts.tolist()):
        bar = number / most * (floor - TOP)
        parts.append(
            f'<rect x="{LEFT + place * width + 0.5:.1f}" y="{floor - bar:.1f}" width="{width - 1:.1f}" '
            f'height="{bar:.1f}" fill="var(--val)"/>'
        )
    for part in range(5):
        value = low + part * (high - low) / 4
        across = LEFT + part * (wide - LEFT - RIGHT) / 4
        parts.append(_text(across, floor + 16, f"{value:.0f}", "end" if part == 4 else "middle"))
    parts += _axis_names(name, "pictures", SMALL)
    fullest = (edges[counts.argmax()] + edges[counts.argmax() + 1]) / 2
    alt = (
        f"{name}: from {values.min():.0f} to {values.max():.0f}, median {np.median(values):.0f}, "
        f"most pictures near {fullest:.0f}."
    )
    return _svg(parts, alt[0].upper() + alt[1:], SMALL)


def _svg(parts: Sequence[str], alt: str, size: tuple[int, int]) -> str:
    return (
        f'<svg viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{html.escape(alt)}">'
        + "".join(parts)
        + "</svg>"
    )


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="var(--rule)"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _axis_names(across: str, up: str, size: tuple[int, int]) -> list[str]:
    wide, tall = size
    middle = (TOP + tall - BOTTOM) / 2
    return [
        _text((LEFT + wide - RIGHT) / 2, tall - 8, across, "middle"),
        f'<text x="14" y="{middle:.1f}" text-anchor="middle" transform="rotate(-90 14 {middle:.1f})">'
        f"{html.escape(up)}</text>",
    ]


def _log_ticks(low: float, high: float) -> list[int]:
    """1, 2, 5, 10 ... between the ends; only the tens where there would be many."""
    every = [k * 10**e for e in range(6) for k in TICKS if low <= math.log10(k * 10**e) <= high]
    return every if len(every) <= 9 else [tick for tick in every if str(tick)[0] == "1"]


def _linear_ticks(most: int) -> list[int]:
    """Whole numbers from 0 to `most`, at most six of them."""
    step = next(k * 10**e for e in range(12) for k in TICKS if most / (k * 10**e) <= 5)
    return list(range(0, most + 1, step))
