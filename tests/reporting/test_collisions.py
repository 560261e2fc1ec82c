"""No two words of a picture lie on each other, however many methods, values or sites it has."""

from itertools import combinations, pairwise

import pytest
from matplotlib.text import Text

from fedpurel_app.reporting import across, plots
from tests.support import run_tiny

pytestmark = pytest.mark.slow  # two dozen runs

METHODS = ("fedavg", "fedpurel", "prograd", "fedprox", "ditto", "kgcoop", "fedavg-kl", "scaffold")


def collisions(figure):
    """Return pairs of words that overlap: neighbours on an axis, and whatever is written into the axes."""
    figure.canvas.draw()
    renderer, found = figure.canvas.get_renderer(), []
    for axes in figure.axes:
        for axis, ends in ((axes.xaxis, ("x0", "x1")), (axes.yaxis, ("y0", "y1"))):
            places = []
            for one in axis.get_ticklabels():
                box = one.get_window_extent(renderer)
                low, high = (getattr(box, end) for end in ends)
                if one.get_rotation():  # slanted words are as far apart as their lines are high
                    half = 0.6 * one.get_fontsize() * figure.dpi / 72
                    low, high = (low + high) / 2 - half, (low + high) / 2 + half
                places += [(low, high, one.get_text())] if one.get_text() else []
            inside = [place for place in sorted(places) if axes.bbox.x0 - 1 <= place[1] or ends[0] == "y0"]
            found += [(left[2], right[2]) for left, right in pairwise(inside) if left[1] > right[0]]
    written = [one for axes in figure.axes for one in axes.texts if one.get_text()]
    boxes = [(Text.get_window_extent(one, renderer), one.get_text()) for one in written]  # without their arrows
    return found + [(first[1], second[1]) for first, second in combinations(boxes, 2) if first[0].overlaps(second[0])]


@pytest.fixture
def found(monkeypatch):
    """Collisions in every picture that is saved, by name."""
    seen = {}

    def save(figure, stem):
        seen[stem.name] = collisions(figure)
        return []

    monkeypatch.setattr(plots, "save", save)
    monkeypatch.setattr(across, "save", save)
    return seen


@pytest.mark.parametrize("sites", [3, 12])
def test_pictures_of_one_run(tmp_path, found, sites):
    folder = run_tiny(tmp_path, num_sites=sites, global_rounds=12, evaluate_every=1)
    plots.draw(folder)
    assert found == {key: [] for key in plots.PAINTERS}


def test_pictures_of_many_runs(tmp_path, found):
    methods = [run_tiny(tmp_path / name, algorithm=name, evaluate_every=1).path for name in METHODS]
    weights = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99, 1.0)
    swept = [run_tiny(tmp_path / str(weight), private_weight=weight).path for weight in weights]
    for picture, paths in (("balancedness", methods), ("convergence", methods), ("sweep", swept)):
        across.draw_across(picture, paths, tmp_path / picture)
    assert found == {key: [] for key in ("balancedness", "convergence", "sweep")}
