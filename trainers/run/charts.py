"""Curves as SVG inside an HTML page, whose style sheet colours them."""

from collections.abc import Mapping, Sequence
from html import escape

from matplotlib.ticker import MaxNLocator

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 420, 240
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 10, 34  # margins


def line_chart(title: str, lines: Mapping[str, Points], x_label: str = "epoch") -> str:
    """A `<figure>` with one line a name. The style sheet colours `line0`, `line1`, ... in the order of `lines`."""
    points = [point for line in lines.values() for point in line]
    x_ticks, y_ticks = (_ticks([point[axis] for point in points], integer=axis == 0) for axis in (0, 1))
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def x(value):
        return LEFT + (value - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (right - LEFT)

    def y(value):
        return bottom - (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (bottom - TOP)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for tick in y_ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    for tick in x_ticks:
        parts.append(f'<text x="{x(tick):.1f}" y="{bottom + 15}" text-anchor="middle">{tick:.4g}</text>')
    parts.append(f'<text x="{(LEFT + right) / 2:.0f}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    for number, line in enumerate(lines.values()):
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line)
        parts.append(f'<polyline class="line{number}" points="{path}"/>')
        if len(line) == 1:  # a line of one point cannot be seen
            parts.append(f'<circle class="line{number}" cx="{x(line[0][0]):.1f}" cy="{y(line[0][1]):.1f}" r="3"/>')
    legend = "".join(f'<span class="key{number}">{escape(name)}</span>' for number, name in enumerate(lines))
    return f"<figure><figcaption>{escape(title)} {legend}</figcaption>{''.join(parts)}</svg></figure>"


def _ticks(values: Sequence[float], integer: bool) -> list[float]:
    """Round numbers that enclose the values."""
    low, high = min(values), max(values)
    if low == high:
        margin = abs(low) / 2 or 1
        low, high = (low - 1, high + 1) if integer else (low - margin, high + margin)
    ticks = list(MaxNLocator(nbins=6, integer=integer, steps=[1, 2, 5, 10]).tick_values(low, high))
    return [tick for tick in ticks if tick >= 0] if low >= 0 else ticks
