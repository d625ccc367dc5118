"""The picture of the benchmark."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from bench.picture import Bar, Panel, draw

SVG = "{http://www.w3.org/2000/svg}"


def test_longest_bar_has_the_largest_figure() -> None:
    """
    Bars are as long as their figures, and each name and figure is written.
    """
    bars = [Bar("nginx", 200.0, "200"), Bar("gateway", 100.0, "100", is_ours=True)]

    root = ET.fromstring(draw([Panel("Requests", "a <note>", bars)], foot="made & signed"))  # noqa: S314  # our own

    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert ["Requests", "a <note>", "nginx", "200", "gateway", "100", "made & signed"] == texts
    widths = [float(rect.attrib["width"]) for rect in root.findall(f"{SVG}rect")[1:]]
    assert [2.0, 1.0] == [width / widths[1] for width in widths]
