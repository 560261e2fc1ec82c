"""What pictures of several runs share: colours, lines with bands, and what is written below them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from fedpurel_app.core.names import clean
from fedpurel_app.reporting.methods import Method
from fedpurel_app.reporting.settings import data_in_words

# Okabe and Ito's palette without its yellow, too light for lines; methods beyond it differ by their markers.
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^v<>PX*"


def foot(figure: Any, methods: Sequence[Method], *more: str) -> None:
    """Write below a picture what it is of."""
    settings = methods[0].settings
    data = f"{settings['peft']} on {settings['dataset']}, {data_in_words(settings)}; seed {seeds_of(methods[0])}"
    figure.supxlabel(
        "\n".join(textwrap.fill(clean(line, 400), 150) for line in (data, *more)), fontsize=7, color="#666666"
    )


def line(axes: Any, x: Sequence[int], points: Sequence[tuple[float, float | None]], colour: str, marker: str) -> None:
    """Draw means with a band of one deviation over seeds; of one seed there is no band."""
    axes.plot(x, [mean for mean, _ in points], color=colour, marker=marker, markersize=4)
    if all(sd is not None for _, sd in points):
        band = [(mean - (sd or 0), mean + (sd or 0)) for mean, sd in points]
        axes.fill_between(x, *zip(*band, strict=True), color=colour, alpha=0.12, linewidth=0)


def seeds_of(method: Method) -> str:
    """List a method's seeds."""
    return " ".join(str(run.seed) for run in method.runs)
