"""From matplotlib's figures to SVG that stands in a page: its colours follow the page's, its ids are its own."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from typing import Any

from markupsafe import Markup

from fedpurel_app.reporting.page.blocks import Picture, Table
from fedpurel_app.reporting.plots import pyplot

_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
# Of the painters, by what the page's style calls them: it has two schemes, and each colour is told from its paper.
_COLOURS = {
    "#000000": "currentColor",
    "#ffffff": "var(--paper)",
    "#cccccc": "var(--rule)",
    "#dddddd": "var(--rule)",
    "#666666": "var(--muted)",
    "#999999": "var(--zero)",
    "#0072b2": "var(--blue)",
    "#56b4e9": "var(--sky)",
    "#d55e00": "var(--orange)",
}
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_FONT = re.compile(r"(font: [^;]*?px) [^;]*")  # matplotlib names twelve families for each text
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_LEAST = 0.95  # of a picture's own width, below which its letters would be too small: its box then scrolls
_LONG = re.compile(r"(\.\d\d)\d+")


def picture(name: str, size: tuple[float, float], paint: Callable[[Any], Table | None], about: str) -> Picture | None:
    """Paint a picture.

    Parameters
    ----------
    name : str
        An identifier that no other picture of the page has.
    size : (float, float)
        Inches.
    paint : callable
        From a figure to the numbers that it shows, whose caption is the picture's title; None where there are none.
    about : str
        What is to be seen, in a sentence or two, for those who do not see it.
    """
    plt = pyplot()
    figure = plt.figure(figsize=size, layout="constrained")
    try:
        table = paint(figure)
        return None if table is None else Picture(svg_of(figure, name, table.caption, about), table)
    finally:
        plt.close(figure)


def svg_of(figure: Any, name: str, title: str, about: str) -> Markup:
    """Return a figure as an SVG element with a title and a description; ``name`` begins all its ids."""
    text = io.BytesIO()
    with pyplot().rc_context({"svg.fonttype": "none"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ET.fromstring(text.getvalue())
    for dropped in (f"{_SVG}metadata", f"{_SVG}defs/{_SVG}style/.."):
        for one in root.findall(dropped):
            root.remove(one)
    referenced = dict.fromkeys(found for one in root.iter() for found in _references(one))
    own_ids = {found: f"{name}-{number}" for number, found in enumerate(referenced)}
    for one in root.iter():
        _adapt(one, own_ids)
    for one in root.iter(f"{_SVG}g"):
        _share_style(one)
    view = root.attrib["viewBox"]
    least = round(_LEAST * float(view.split()[2]))
    labels = {"role": "img", "aria-labelledby": f"{name}-title {name}-about"}
    root.attrib = {"viewBox": view, **labels, "style": f"min-width: {least}px"}
    for place, (tag, content) in enumerate((("title", title), ("desc", about))):
        label = ET.Element(f"{_SVG}{tag}", {"id": f"{name}-{'about' if place else 'title'}"})
        label.text = content
        root.insert(place, label)
    ET.register_namespace("", _SVG.strip("{}"))
    return Markup(ET.tostring(root, encoding="unicode"))  # of matplotlib's own, which escapes all text


def _references(one: ET.Element) -> list[str]:
    found = [match for value in one.attrib.values() for match in _REFERENCE.findall(value)]
    target = one.attrib.get(_HREF, "")
    return [*found, target[1:]] if target.startswith("#") else found


def _adapt(one: ET.Element, own_ids: Mapping[str, str]) -> None:
    """Take over an element's attributes; what nobody refers to needs no id."""
    kept = {}
    for key, value in one.attrib.items():
        if key == "id":
            if value in own_ids:
                kept["id"] = own_ids[value]
        elif key == _HREF:
            kept["href"] = f"#{own_ids[value[1:]]}" if value.startswith("#") else value
        elif key == "style":
            coloured = _COLOUR.sub(lambda match: _COLOURS.get(match[0], match[0]), value)
            kept["style"] = _with_own_ids(_FONT.sub(r"\1 sans-serif", coloured), own_ids)
        else:
            kept[key] = _LONG.sub(r"\1", value) if key in ("d", "x", "y") else _with_own_ids(value, own_ids)
    one.attrib = kept


def _with_own_ids(value: str, own_ids: Mapping[str, str]) -> str:
    return _REFERENCE.sub(lambda match: f"url(#{own_ids[match[1]]})", value)


def _share_style(group: ET.Element) -> None:
    """Move the style that a group's marks have in common to the group: there may be thousands of marks."""
    marks = group.findall(f"{_SVG}use")
    styles = {one.attrib.get("style", "") for one in group}
    if len(marks) > 1 and len(marks) == len(group) and len(styles) == 1 and "style" not in group.attrib:
        group.attrib["style"] = styles.pop()
        for one in marks:
            one.attrib.pop("style", None)
