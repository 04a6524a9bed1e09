"""Figures for people: Markdown tables, and numbers with as many digits as they deserve."""

import math
from collections.abc import Sequence

from rounds import Spread

NONE = "–"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with its columns aligned, so that it reads well as plain text too."""
    widths = [max(len(line[at]) for line in [head, *rows]) for at in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in [head, *rows]
    ]
    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])


def number(value: float) -> str:
    """Three digits, or all before the point: 0.853, 12.4, 187 600."""
    if not math.isfinite(value):
        return NONE
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def spread(value: Spread, scale: float = 1.0) -> str:
    """The median, and the quartiles in brackets."""
    if not math.isfinite(value.median):
        return NONE
    if value.low == value.high:
        return number(value.median * scale)
    return f"{number(value.median * scale)} ({number(value.low * scale)}–{number(value.high * scale)})"


def ratio(value: Spread) -> str:
    """As `spread`, with two digits behind the point."""
    if not math.isfinite(value.median):
        return NONE
    return f"{value.median:.2f} ({value.low:.2f}–{value.high:.2f})"


def percent(part: float) -> str:
    """A part as a percentage that says 100 only if it is."""
    return "100 %" if part == 1 else f"{min(99.999, 100 * part):.3f} %"
