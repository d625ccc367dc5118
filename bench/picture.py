"""
The benchmark as a picture: bars of the figures that are compared, as SVG.

A bar of the gateway is dark, the others are light; a generator-bound one is hatched: at least that much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LABEL, VALUE = 860, 190, 150  # of the picture, and left and right of the bars, in pixels
BAR, GAP, TITLE, MARGIN = 22, 8, 44, 18
DARK, LIGHT, INK, SOFT = "#1f5fa8", "#b9c7d6", "#1b1f24", "#59636e"
FONT = "font-family='system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif'"
HATCH = (
    "<defs><pattern id='hatch' width='6' height='6' patternUnits='userSpaceOnUse' patternTransform='rotate(45)'>"
    "<rect width='6' height='6' fill='{light}'/><rect width='2' height='6' fill='#ffffff'/></pattern></defs>"
)


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure; *text* is how it is written beside the bar."""

    name: str
    value: float
    text: str
    is_ours: bool = False
    is_bound: bool = False  # by the generator


@dataclass(frozen=True, slots=True)
class Panel:
    """Bars of one figure below a title; *note* stands beside it in small."""

    title: str
    note: str
    bars: Sequence[Bar]


def draw(panels: Sequence[Panel], *, foot: str) -> str:
    """Return *panels* one below the other as SVG, with *foot* in small at the end."""
    parts: list[str] = []
    y = MARGIN
    for panel in panels:
        parts += _panel(panel, y)
        y += TITLE + len(panel.bars) * (BAR + GAP) + MARGIN
    height = y + 2 * MARGIN
    parts.append(_text(MARGIN, y + 10, foot, size=11, fill=SOFT))
    opening = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' width='{WIDTH}' height='{height}'"
    )
    background = f"<rect width='{WIDTH}' height='{height}' fill='#ffffff'/>"
    return "\n".join([f"{opening} {FONT}>", HATCH.format(light=LIGHT), background, *parts, "</svg>"]) + "\n"


def _panel(panel: Panel, top: int) -> list[str]:
    parts = [
        _text(MARGIN, top + 16, panel.title, size=15, weight=600),
        _text(MARGIN, top + 33, panel.note, size=11, fill=SOFT),
    ]
    longest = max((bar.value for bar in panel.bars), default=0.0) or 1.0
    room = WIDTH - LABEL - VALUE - MARGIN
    for number, bar in enumerate(panel.bars):
        y = top + TITLE + number * (BAR + GAP)
        width = max(1.0, room * bar.value / longest)
        fill = DARK if bar.is_ours else "url(#hatch)" if bar.is_bound else LIGHT
        weight = 600 if bar.is_ours else 400
        middle = y + BAR - 6
        parts += [
            _text(LABEL - 10, middle, bar.name, size=13, anchor="end", weight=weight),
            f"<rect x='{LABEL}' y='{y}' width='{width:.1f}' height='{BAR}' rx='2' fill='{fill}'/>",
            _text(LABEL + width + 8, middle, bar.text, size=13, weight=weight),
        ]
    return parts


def _text(
    x: float, y: float, text: str, *, size: int, anchor: str = "start", weight: int = 400, fill: str = INK
) -> str:
    style = f"font-size='{size}' font-weight='{weight}' text-anchor='{anchor}' fill='{fill}'"
    return f"<text x='{x:.1f}' y='{y:.1f}' {style}>{escape(text)}</text>"
