"""Markdown tables, and figures with a suitable number of digits."""

import math
from collections.abc import Callable, Sequence

from load import LATENCIES, latency_us
from rounds import Series, Spread

NONE = "–"
"""The cell of a figure that does not exist."""


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with aligned columns, which is readable as plain text too."""
    lines = [head, *rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines
    )


def number(value: float) -> str:
    """Three significant digits, or all digits before the point: 0.853, 12.4, 187 600."""
    if not math.isfinite(value):
        return NONE
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def spread(value: Spread, scale: float = 1.0) -> str:
    """The median, with the quartiles in parentheses."""
    return _cell(value, lambda figure: number(figure * scale))


def ratio(value: Spread) -> str:
    """As `spread`, with two digits after the point."""
    return _cell(value, lambda figure: f"{figure:.2f}")


def _cell(value: Spread, text: Callable[[float], str]) -> str:
    if not math.isfinite(value.median):
        return NONE
    if value.low == value.high:
        return text(value.median)
    return f"{text(value.median)} ({text(value.low)}–{text(value.high)})"


def percent(fraction: float) -> str:
    """A percentage that is 100 only if it is exact."""
    return "100 %" if fraction == 1 else f"{min(99.999, 100 * fraction):.3f} %"


def latency_head(unit: str) -> list[str]:
    """The column names of all latencies."""
    return [f"{name.replace('_', '.')} {unit}" for name in LATENCIES]


def latency_cells(series: Series, scale: float = 1.0) -> list[str]:
    """All latencies of `series`, in microseconds times `scale`."""
    return [spread(series.spread(latency_us(name)), scale) for name in LATENCIES]
