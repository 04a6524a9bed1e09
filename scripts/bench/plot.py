#!/usr/bin/env python3
"""Draws what `scripts/bench.sh MODE --json FILE` found, as one SVG.

    scripts/bench/plot.py FILE.json [-o FILE.svg]

A panel for the throughput over connections, where there is more than one number of them, and one
for the latency percentiles of each kind of load. Points are medians over the rounds, the bars
through them quartiles. Exit status: 0 drawn; 1 nothing to draw, or no room; 2 wrong usage.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from statistics import median, quantiles

Report = dict[str, Any]
"""What bench.sh wrote, or a part of it."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Told apart by the colour-blind too (Okabe and Ito)."""

PERCENTILES = ("p50", "p90", "p99", "p99_9", "max")

PANEL_WIDTH, PANEL_HEIGHT = 420, 300
LEFT, RIGHT, TOP, BOTTOM = 66, 18, 64, 46
"""Of a panel's frame: room for numbers, none, title and legend, and the name of the axis."""

COLUMNS = 3
HEAD = 56
"""Height of the title of the whole."""


@dataclass(frozen=True)
class Point:
    """The median of some rounds at one place of the horizontal axis, and their quartiles."""

    place: float
    middle: float
    low: float
    high: float


@dataclass
class Line:
    """One server, or one phase."""

    name: str
    points: list[Point]


@dataclass
class Panel:
    """One diagram."""

    title: str
    across: str
    up: str
    places: dict[float, str]
    """What stands below the horizontal axis, and where."""
    lines: list[Line]
    logarithmic: bool


@dataclass(frozen=True)
class Scale:
    """From values to heights within a panel."""

    least: float
    most: float
    logarithmic: bool

    @classmethod
    def over(cls, lines: Iterable[Line], logarithmic: bool) -> "Scale":
        ends = [end for line in lines for point in line.points for end in (point.low, point.high)]
        if not logarithmic:
            return cls(0.0, max(ends) * 1.08 or 1.0, False)
        positive = [end for end in ends if end > 0] or [1.0]
        return cls(min(positive) / 1.3, max(positive) * 1.3, True)

    def part(self, value: float) -> float:
        """0 at the lower end, 1 at the upper one."""
        if self.logarithmic:
            value = max(value, self.least)
            return math.log(value / self.least) / math.log(self.most / self.least)
        return (value - self.least) / (self.most - self.least)

    def ticks(self) -> list[float]:
        """Some round numbers between the ends."""
        if self.logarithmic:
            decades = range(math.floor(math.log10(self.least)), math.ceil(math.log10(self.most)) + 1)
            steps = (1,) if len(decades) > 4 else (1, 2, 5)
            ticks = [step * 10.0**decade for decade in decades for step in steps]
        else:
            rough = self.most / 4
            unit = 10.0 ** math.floor(math.log10(rough))
            step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
            ticks = [step * number for number in range(6)]
        return [tick for tick in ticks if self.least <= tick <= self.most]


Position = Callable[[float], float]
"""From a place or a value to where it is drawn."""


def point(place: float, numbers: Sequence[float]) -> Point:
    if len(numbers) == 1:
        return Point(place, numbers[0], numbers[0], numbers[0])
    low, _, high = quantiles(numbers, n=4, method="inclusive")
    return Point(place, median(numbers), low, high)


def latency_panels(series: Sequence[Report]) -> list[Panel]:
    """One for each row, with a line for each of its servers."""
    places = {float(at): name.replace("_", ".") for at, name in enumerate(PERCENTILES)}
    panels = []
    for row in dict.fromkeys(one["row"] for one in series):
        lines = []
        for one in (one for one in series if one["row"] == row):
            numbers = {at: [run["latency_us"][name] for run in one["runs"]] for at, name in enumerate(PERCENTILES)}
            known = {at: [number for number in some if number is not None] for at, some in numbers.items()}
            lines.append(Line(one["name"], [point(at, some) for at, some in known.items() if some]))
        panels.append(
            Panel(row, "percentile", "latency, µs", places, [line for line in lines if line.points], True)
        )
    return [panel for panel in panels if panel.lines]


def throughput_panels(series: Sequence[Report]) -> list[Panel]:
    """One for each kind of load that was run with more than one number of connections."""
    kinds: dict[tuple[str, int, int], dict[str, dict[int, list[float]]]] = {}
    for one in series:
        for run in one["runs"]:
            if run["connect_each"] or run["rate"] is not None:
                continue  # a connection for each request, or a rate that was given, says nothing here
            kind = (run["op"], run["pipeline"], run["value_bytes"])
            rates = kinds.setdefault(kind, {}).setdefault(one["name"], {}).setdefault(run["connections"], [])
            rates.append(run["answers_per_second"])
    panels = []
    for (operation, pipeline, value), named in kinds.items():
        counts = sorted({count for rates in named.values() for count in rates})
        if len(counts) < 2:
            continue
        lines = [
            Line(name, [point(math.log(count), rates[count]) for count in sorted(rates)])
            for name, rates in named.items()
        ]
        title = f"{operation.upper()}/s, {pipeline} in flight on each connection, {value} bytes"
        places = {math.log(count): str(count) for count in counts}
        panels.append(Panel(title, "connections", "answers/s", places, lines, False))
    return panels


def short(value: float) -> str:
    """A number as a tick has room for: 1.5 M, 200 k, 0.05."""
    for unit, sign in ((1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{value / unit:g}{sign}"
    return f"{value:g}"


def text(x: float, y: float, words: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'


def stroke(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1.0) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}"/>'


def drawn(panel: Panel) -> list[str]:
    """The elements of one panel, whose corner is the origin."""
    scale = Scale.over(panel.lines, panel.logarithmic)
    first, last = min(panel.places), max(panel.places)
    right, bottom = PANEL_WIDTH - RIGHT, PANEL_HEIGHT - BOTTOM
    margin = 16  # between the frame and the first and last place

    def x(place: float) -> float:
        return LEFT + margin + (place - first) / ((last - first) or 1.0) * (right - LEFT - 2 * margin)

    def y(value: float) -> float:
        return bottom - scale.part(value) * (bottom - TOP)

    parts = [text(LEFT, 18, panel.title, 'class="title"')]
    for tick in scale.ticks():
        parts.append(stroke(LEFT, y(tick), right, y(tick), "#e4e4e4"))
        parts.append(text(LEFT - 6, y(tick) + 4, short(tick), 'text-anchor="end"'))
    parts.append(stroke(LEFT, bottom, right, bottom, "#666"))
    for place, name in panel.places.items():
        parts.append(text(x(place), bottom + 16, name, 'text-anchor="middle"'))
    parts.append(text((LEFT + right) / 2, bottom + 34, panel.across, 'text-anchor="middle" class="axis"'))
    middle = (TOP + bottom) / 2
    parts.append(
        text(14, middle, panel.up, f'text-anchor="middle" class="axis" transform="rotate(-90 14 {middle:.1f})"')
    )
    return parts + legend(panel) + [part for at, line in enumerate(panel.lines) for part in curve(line, at, x, y)]


def legend(panel: Panel) -> list[str]:
    """The names of the lines, in their colours, in at most two rows below the title."""
    parts, at, height = [], float(LEFT), 36
    for number, line in enumerate(panel.lines):
        width = 28 + 6.8 * len(line.name)
        if at + width > PANEL_WIDTH and at > LEFT:
            at, height = float(LEFT), height + 15
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<circle cx="{at + 4:.1f}" cy="{height - 4}" r="4" fill="{colour}"/>')
        parts.append(text(at + 12, height, line.name))
        at += width
    return parts


def curve(line: Line, number: int, x: Position, y: Position) -> list[str]:
    """A line with its points; lines stand a little beside each other, so that none hides another's bars."""
    colour, shift = COLOURS[number % len(COLOURS)], 2.5 * (number - 1)
    path = " ".join(f"{x(point.place) + shift:.1f},{y(point.middle):.1f}" for point in line.points)
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>']
    for point in line.points:
        parts.append(
            stroke(x(point.place) + shift, y(point.low), x(point.place) + shift, y(point.high), colour, 1.2)
        )
        parts.append(
            f'<circle cx="{x(point.place) + shift:.1f}" cy="{y(point.middle):.1f}" r="3" fill="{colour}"/>'
        )
    return parts


STYLE = (
    "text{font:12px system-ui,'DejaVu Sans',sans-serif;fill:#333}"
    ".title{font-weight:600;font-size:13px}.head{font-weight:600;font-size:17px}.axis{fill:#777}.loud{fill:#b00020}"
)


def picture(report: Report, panels: Sequence[Panel]) -> str:
    """The whole SVG."""
    columns = min(COLUMNS, len(panels))
    width, height = max(2, columns) * PANEL_WIDTH, HEAD + math.ceil(len(panels) / columns) * PANEL_HEIGHT
    machine, settings = report["machine"], report["settings"]
    nodes = f" {settings['nodes']}" if settings["nodes"] else ""
    about = (
        f"{report['time'][:10]}, {machine['cpu']}, {machine['cores']} cores; medians of {settings['rounds']} rounds"
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f"<style>{STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        text(16, 24, f"bench.sh {report['mode']}{nodes}", 'class="head"'),
        text(16, 44, about),
    ]
    if faults := report["watch"]["faults"]:
        parts.append(text(width - 16, 24, f"the machine was {' and '.join(faults)}", 'text-anchor="end" class="loud"'))
    for number, panel in enumerate(panels):
        across, down = number % columns * PANEL_WIDTH, HEAD + number // columns * PANEL_HEIGHT
        parts += [f'<g transform="translate({across} {down})">', *drawn(panel), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="plot.py", description="Draws a report of bench.sh as SVG.")
    parser.add_argument("report", type=Path, metavar="FILE.json", help="what bench.sh --json wrote")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.svg", help="where to draw (beside the report)")
    arguments = parser.parse_args()
    try:
        report = json.loads(arguments.report.read_text())
        panels = throughput_panels(report["series"]) + latency_panels(report["series"])
        if not panels:
            raise ValueError("it holds no runs")
        (arguments.output or arguments.report.with_suffix(".svg")).write_text(picture(report, panels))
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"plot.py: {arguments.report}: {error!r}, expected a report of bench.sh --json", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
