"""Small pictures as inline SVG: curves, matrices, and who gives whom how much."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, cos, floor, isfinite, log10, pi, sin
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

INK, PALE, RULE = "#1f2933", "#7b8794", "#e4e7eb"


class Curve(NamedTuple):
    """One line of a chart, with a band around it."""

    label: str
    colour: str
    x: Floats  # [P]
    y: Floats  # [P]
    low: Floats  # [P]
    high: Floats  # [P]


def number(value: float, digits: int = 3) -> str:
    """A number for people: 12,300 or 0.0312; a dash where it is not known."""
    if not isfinite(value):
        return "\N{EN DASH}"
    if value and abs(value) < 10 ** (1 - digits):
        return f"{value:.1g}".replace("-", "\N{MINUS SIGN}")
    places = max(0, digits - 1 - floor(log10(abs(value)))) if value else 0
    text = f"{value:,.{places}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return text.replace("-", "\N{MINUS SIGN}")


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About so many round numbers from low to high."""
    if high <= low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** floor(log10(rough))
    step = next(power * each for each in (1, 2, 2.5, 5, 10) if power * each >= rough)
    return [round(n * step, 12) for n in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]


def line_chart(title: str, curves: Sequence[Curve], width: int = 318, height: int = 205) -> str:
    """Curves with their bands over env steps."""
    left, right, top, bottom = 46, 10, 30, 26
    every = np.concatenate([np.concatenate([curve.low, curve.high]) for curve in curves])
    low, high = float(every.min()), float(every.max())
    margin = 0.06 * (high - low) or max(abs(high) * 0.1, 0.1)
    low, high = low - margin, high + margin
    x_high = max(float(curve.x[-1]) for curve in curves)

    def at(x: Floats, y: Floats) -> str:
        across = left + (width - left - right) * x / x_high
        down = top + (height - top - bottom) * (high - y) / (high - low)
        return " ".join(f"{a:.1f},{d:.1f}" for a, d in zip(across, down, strict=True))

    parts = [f'<text x="0" y="14" class="title">{escape(title)}</text>']
    for tick in ticks(low, high):
        y = top + (height - top - bottom) * (high - tick) / (high - low)
        parts.append(f'<line x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}" stroke="{RULE}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 3.5:.1f}" class="tick" text-anchor="end">{number(tick)}</text>')
    for tick in ticks(0, x_high, 3):
        x = left + (width - left - right) * tick / x_high
        parts.append(f'<text x="{x:.1f}" y="{height - 8}" class="tick" text-anchor="middle">{_steps(tick)}</text>')
    for curve in curves:
        band = at(np.concatenate([curve.x, curve.x[::-1]]), np.concatenate([curve.high, curve.low[::-1]]))
        parts.append(f'<polygon points="{band}" fill="{curve.colour}" opacity="0.15"/>')
        parts.append(f'<polyline points="{at(curve.x, curve.y)}" stroke="{curve.colour}" class="curve"/>')
    return _svg(width, height, parts, title)


def matrix(values: Floats, names: Sequence[str], largest: float, caption: str, cell: int = 40) -> str:
    """A matrix of what each agent (row) is to each (column): blue above 0, orange below; the diagonal is left empty.

    Args:
        values: `[N, N]`, NaN where not known.
        names: of the agents.
        largest: the absolute value that has the full colour.
        caption: above it.
        cell: pixels.
    """
    count, left, top = len(values), 26, 40
    width, height = max(left + count * cell + 4, 120), top + count * cell + 4
    parts = [f'<text x="{left}" y="14" class="caption">{escape(caption)}</text>']
    for i in range(count):
        middle = left + cell * (i + 0.5)
        parts.append(f'<text x="{middle:.0f}" y="{top - 8}" class="tick" text-anchor="middle">{i}</text>')
        parts.append(
            f'<text x="{left - 8}" y="{top + cell * (i + 0.5) + 4:.0f}" class="tick" text-anchor="end">{i}</text>'
        )
        for j in range(count):
            value = float(values[i, j])
            box = f'x="{left + cell * j}" y="{top + cell * i}" width="{cell - 2}" height="{cell - 2}" rx="3"'
            if i == j or not isfinite(value):
                parts.append(f'<rect {box} fill="#f5f7fa"/>')
                continue
            strength = min(1.0, abs(value) / largest) if largest else 0.0
            colour = _mixed((255, 255, 255), (21, 101, 192) if value >= 0 else (217, 95, 2), 0.06 + 0.94 * strength)
            ink = "#ffffff" if strength > 0.55 else INK
            label = f"{escape(names[i])} → {escape(names[j])}: {number(value)}"
            parts.append(f'<rect {box} fill="{colour}"><title>{label}</title></rect>')
            x, y = left + cell * (j + 0.5) - 1, top + cell * (i + 0.5) + 3
            parts.append(
                f'<text x="{x:.0f}" y="{y:.0f}" fill="{ink}" class="cell" text-anchor="middle">{number(value, 2)}</text>'
            )
    return _svg(width, height, parts, caption)


def gift_graph(
    amounts: Floats, names: Sequence[str], notes: Sequence[str], colours: Sequence[str], size: int = 420
) -> str:
    """Agents on a circle, and an arrow for each gift, as wide as the gift is large.

    Args:
        amounts: `[N, N]`, what row gives to column.
        names: of the agents.
        notes: a second line for each agent.
        colours: one for each agent.
        size: pixels of each side.
    """
    count, radius, node = len(amounts), size * 0.31, 27
    places = circle(count, size / 2, size / 2, radius)
    given = np.where(np.eye(count, dtype=bool), 0.0, np.nan_to_num(amounts))
    largest = np.abs(given).max()
    parts = []
    for i, j in np.argwhere(np.abs(given) > 0.02 * largest) if largest else ():
        share = abs(given[i, j]) / largest
        wide = 1.5 + 11 * share
        path, (x, y) = _arc(places[i], places[j], node + 3, node + 6 + 1.5 * wide)
        colour = colours[i]
        label = f"{escape(names[i])} gives {escape(names[j])} {number(given[i, j])} per episode"
        line = f'fill="none" stroke="{colour}" stroke-width="{wide:.1f}" opacity="0.75"'
        parts.append(f'<path d="{path}" {line}><title>{label}</title></path>')
        parts.append(_head(places[j], (x, y), wide, colour, node + 4))
        (mx, my) = _label_place(places[i], places[j])
        if share > 0.15:
            parts.append(
                f'<text x="{mx:.1f}" y="{my:.1f}" class="gift halo" text-anchor="middle">{number(given[i, j], 2)}</text>'
            )
    for (x, y), name, note, colour in zip(places, names, notes, colours, strict=True):
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{node}" fill="{colour}" stroke="#fff" stroke-width="3"/>')
        kind, _, agent = name.rpartition(" ")
        parts.append(f'<text x="{x:.1f}" y="{y + 6:.1f}" class="node" text-anchor="middle">{agent}</text>')
        away = 1 if y >= size / 2 - 1 else -1
        first = y + (node + 18 if away > 0 else -node - 24)
        parts.append(f'<text x="{x:.1f}" y="{first:.1f}" class="name halo" text-anchor="middle">{escape(kind)}</text>')
        parts.append(
            f'<text x="{x:.1f}" y="{first + 15:.1f}" class="tick halo" text-anchor="middle">{escape(note)}</text>'
        )
    return _svg(size, size, parts, "who gives what to whom")


def circle(count: int, x: float, y: float, radius: float) -> list[tuple[float, float]]:
    """Places on a circle, two of them side by side, more from the top on, clockwise."""
    turn = pi if count == 2 else -pi / 2
    return [
        (x + radius * cos(turn + 2 * pi * k / count), y + radius * sin(turn + 2 * pi * k / count)) for k in range(count)
    ]


def _bend(start: tuple[float, float], end: tuple[float, float]) -> tuple[float, float]:
    """The control point of an arrow that bends to its right, so that gifts both ways lie apart."""
    (x1, y1), (x2, y2) = start, end
    return (x1 + x2) / 2 - 0.18 * (y2 - y1), (y1 + y2) / 2 + 0.18 * (x2 - x1)


def _arc(
    start: tuple[float, float], end: tuple[float, float], from_start: float, from_end: float
) -> tuple[str, tuple[float, float]]:
    cx, cy = _bend(start, end)
    (x1, y1), (x2, y2) = _towards(start, (cx, cy), from_start), _towards(end, (cx, cy), from_end)
    return f"M{x1:.1f},{y1:.1f} Q{cx:.1f},{cy:.1f} {x2:.1f},{y2:.1f}", (x2, y2)


def _head(end: tuple[float, float], base: tuple[float, float], wide: float, colour: str, node: float) -> str:
    tip = _towards(end, base, node)
    dx, dy = tip[0] - base[0], tip[1] - base[1]
    long = max((dx * dx + dy * dy) ** 0.5, 1e-9)
    half = wide * 0.9 + 2
    px, py = -dy / long * half, dx / long * half
    points = f"{tip[0]:.1f},{tip[1]:.1f} {base[0] + px:.1f},{base[1] + py:.1f} {base[0] - px:.1f},{base[1] - py:.1f}"
    return f'<polygon points="{points}" fill="{colour}" opacity="0.85"/>'


def _label_place(start: tuple[float, float], end: tuple[float, float]) -> tuple[float, float]:
    """On the arrow, nearer to the giver, where arrows of others cross less."""
    (x1, y1), (cx, cy), (x2, y2) = start, _bend(start, end), end
    t = 0.36
    return (
        (1 - t) ** 2 * x1 + 2 * t * (1 - t) * cx + t * t * x2,
        (1 - t) ** 2 * y1 + 2 * t * (1 - t) * cy + t * t * y2 + 4,
    )


def _towards(start: tuple[float, float], end: tuple[float, float], distance: float) -> tuple[float, float]:
    dx, dy = end[0] - start[0], end[1] - start[1]
    long = max((dx * dx + dy * dy) ** 0.5, 1e-9)
    return start[0] + dx / long * distance, start[1] + dy / long * distance


def _mixed(one: tuple[int, int, int], other: tuple[int, int, int], share: float) -> str:
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(one, other, strict=True))


def _steps(value: float) -> str:
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _svg(width: float, height: float, parts: Sequence[str], label: str) -> str:
    box = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    return f'<svg {box} role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
