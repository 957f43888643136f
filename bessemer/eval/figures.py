"""Figures as inline SVG: text stays text, colours are the page's CSS variables, and the same numbers give the same bytes."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# matplotlib wants real colours: these stand in for the page's, which change between light and dark.
INK, FAINT = "#010203", "#010204"
SERIES = ("#010211", "#010212", "#010213", "#010214", "#010215", "#010216")
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and weighs less than outlines
    "svg.hashsalt": "bessemer",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
}
Points = tuple[Sequence[float], Sequence[float]]
Interval = tuple[float, float, float]  # value, low, high


def curves(lines: Mapping[str, Points], name: str, x_label: str = "step", from_zero: bool = False) -> Markup:
    """Lines over a shared x axis, labelled where there are several; those called val... are dotted with a mark at each point.

    `name` must be unique on the page: it keeps this figure's ids apart from those of others.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(4.4, 2.6)
        for number, (label, (x, y)) in enumerate(lines.items()):
            measured = label.startswith("val")
            marks = {"marker": "o", "markersize": 3.5, "linestyle": ":"} if measured else {"linewidth": 1.6}
            axes.plot(x, y, color=SERIES[number % len(SERIES)], label=label, **marks)
        axes.set_xlabel(x_label)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if from_zero:
            axes.set_ylim(bottom=0)
        if len(lines) > 1:
            axes.legend(fontsize=9)
        return _svg(figure, name)


def whiskers(rows: Mapping[str, Interval], name: str, reference: float | None = None) -> Markup:
    """One dot with its interval per model, first on top. `reference` draws a vertical line, such as the score of guessing."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(4.4, 0.75 + 0.34 * len(rows))
        for number, (value, low, high) in enumerate(rows.values()):
            colour = SERIES[number % len(SERIES)]
            axes.plot([low, high], [number, number], color=colour, linewidth=2.2, solid_capstyle="round")
            axes.plot([value], [number], color=colour, marker="o", markersize=7)
        if reference is not None:
            axes.axvline(reference, color=INK, linewidth=1, linestyle=(0, (2, 3)))
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.margins(x=0.08)
        return _svg(figure, name)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Figure, name: str) -> Markup:
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    for colour, variable in [(INK, "ink"), (FAINT, "line"), *((own, f"s{i}") for i, own in enumerate(SERIES, 1))]:
        svg = svg.replace(colour, f"var(--{variable})")
    svg = re.sub(r"'DejaVu Sans'[^;\"]*sans-serif", "var(--sans)", svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    svg = re.sub(r'<svg([^>]*?) width="[^"]*"', r"<svg\1", svg, count=1)
    svg = re.sub(r'<svg([^>]*?) height="[^"]*"', r'<svg role="img"\1', svg, count=1)
    return Markup(svg)
