"""The fronts of the sites as tables: ``fronts.csv``, a row for every point, and ``front-scores.csv``; and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedpurel_app.core.fronts import CURVES, Front, Point, mean_class_error
from fedpurel_app.core.metrics_pareto import hypervolume, nondominated, sparsity, spread
from fedpurel_app.core.site_scores import SiteScores
from fedpurel_app.reporting.columns import number

FRONT_COLUMNS = ["site", "curve", "at", "own_accuracy", "all_accuracy", "all_of", "agreement", "nondominated"]
FRONT_SCORE_COLUMNS = ["site", "curve", "points", "hypervolume", "sparsity", "own_range", "all_range"]
_SCORES = FRONT_SCORE_COLUMNS[3:]
TITLES = {"pareto": "the knob", "logit-adjustment": "logit adjustment after training", "dial": "dial l_G + a l_P"}

Tables = dict[str, tuple[list[str], list[list[Any]]]]
Floats = npt.NDArray[np.float64]


class SiteFront:
    """What a site's front is in rates of error.

    Parameters
    ----------
    front : Front
        Of as many points as there are.
    total : ndarray of int64, shape (C,), or (1,)
        Images of its test part.
    balanced : ndarray of int64, shape (C,)
        Images of the server's balanced test set; all 0 where it has none.
    """

    def __init__(self, front: Front, total: npt.NDArray[np.int64], balanced: npt.NDArray[np.int64]) -> None:
        images = max(1, int(total.sum()))
        self.own: Floats = 1 - front.correct.sum(1) / images
        self.change: Floats = 1 - front.agree / images
        self.everywhere, self.all_of = self._everywhere(front, total, balanced)

    @staticmethod
    def _everywhere(
        front: Front, total: npt.NDArray[np.int64], balanced: npt.NDArray[np.int64]
    ) -> tuple[Floats | None, str]:
        """Return the mean over classes, on the server's images, else on the site's own; None of totals alone."""
        fits = front.everywhere is not None and front.everywhere.shape[1:] == balanced.shape and balanced.any()
        if front.everywhere is not None and fits and (front.everywhere <= balanced).all():
            return mean_class_error(front.everywhere, balanced), "server"
        if len(total) != len(balanced) or not total.any():
            return None, ""
        return mean_class_error(front.correct, total), "own classes"

    def errors(self, rows: Sequence[int], objectives: int) -> Floats | None:
        """Return the errors at some points, shape (n, m); None where one of them is not known."""
        if self.everywhere is None:
            return None
        return np.stack([self.own, self.everywhere, self.change][:objectives], 1)[list(rows)]


def site_fronts(
    points: Sequence[Point], scores: Mapping[str, SiteScores], balanced: npt.NDArray[np.int64]
) -> dict[str, SiteFront]:
    """Return the fronts that sites sent, by site; those of another number of points are left out."""
    return {
        site: SiteFront(one.front, one.counts["global"].total, balanced)
        for site, one in sorted(scores.items())
        if one.front is not None and len(one.front.agree) == len(points)
    }


def front_tables(
    points: Sequence[Point], scores: Mapping[str, SiteScores], balanced: npt.NDArray[np.int64]
) -> tuple[Tables, dict[str, dict[str, float]]]:
    """Make the tables of the sites' fronts, by the name of the run folder's file, and the means of what they are worth.

    Parameters
    ----------
    points : sequence of Point
    scores : mapping of str to SiteScores
    balanced : ndarray of int64, shape (C,)
        Images of the server's balanced test set; all 0 where it has none.

    Returns
    -------
    dict, dict
        Columns and rows; scores by curve. Both are empty where no site sent a front.
    """
    if not (fronts := site_fronts(points, scores, balanced)):
        return {}, {}
    worth = front_scores(points, fronts)
    tables: Tables = {
        "fronts.csv": (FRONT_COLUMNS, front_rows(points, fronts)),
        "front-scores.csv": (FRONT_SCORE_COLUMNS, worth),
    }
    return tables, mean_scores(worth)


def front_rows(points: Sequence[Point], fronts: Mapping[str, SiteFront]) -> list[list[Any]]:
    """Make one row for every point of every curve and site; accuracies and agreement in percent."""
    rows, objectives = [], len(points[0].at)
    for site, front in fronts.items():
        for curve, places in _by_curve(points).items():
            errors = front.errors(places, objectives)
            best = set() if errors is None else {tuple(one) for one in nondominated(errors).tolist()}
            for number_, place in enumerate(places):
                everywhere = "" if front.everywhere is None else _percent(1 - front.everywhere[place])
                flag = "" if errors is None else int(tuple(errors[number_].tolist()) in best)
                at = ";".join(f"{value:g}" for value in (points[place].at[:1] if objectives == 2 else points[place].at))
                own, same = _percent(1 - front.own[place]), _percent(1 - front.change[place])
                rows.append([site, curve, at, own, everywhere, front.all_of, same, flag])
    return rows


def front_scores(points: Sequence[Point], fronts: Mapping[str, SiteFront]) -> list[list[Any]]:
    """Make one row for every curve and site: what its front is worth. Of sites that tell class counts alone."""
    rows, objectives = [], len(points[0].at)
    for site, front in fronts.items():
        for curve, places in _by_curve(points).items():
            if (errors := front.errors(places, objectives)) is not None:
                own, everywhere, *_ = spread(errors)
                values = 100 * np.array(
                    [hypervolume(errors, [1] * objectives), 100 * sparsity(errors), own, everywhere]
                )
                rows.append([site, curve, len(nondominated(errors)), *(f"{value:.4f}" for value in values)])
    return rows


def mean_scores(rows: Sequence[Sequence[Any]]) -> dict[str, dict[str, float]]:
    """Return the means over sites of the rows of :func:`front_scores`, by curve."""
    found: dict[str, dict[str, float]] = {}
    for curve in CURVES:
        own = [[float(value) for value in row[3:]] for row in rows if row[1] == curve]
        if own:
            found[curve] = dict(zip(_SCORES, np.mean(own, 0).tolist(), strict=True))
    return found


def front_lines(fronts: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Print the means, what costs no training always beside what does."""
    lines = [f"{'fronts, mean over sites':<34}{'hypervolume':>12}{'sparsity':>10}{'own range':>11}{'all range':>11}"]
    for curve, title in TITLES.items():
        if values := fronts.get(curve):
            cells = zip((12, 10, 11, 11), (values.get(name) for name in _SCORES), strict=True)
            lines.append(f"{title:<34}" + "".join(f"{number(value, 2):>{width}}" for width, value in cells))
    return lines if len(lines) > 1 else []


def _by_curve(points: Sequence[Point]) -> dict[str, list[int]]:
    return {curve: [place for place, point in enumerate(points) if point.curve == curve] for curve in CURVES}


def _percent(value: float) -> str:
    return f"{100 * value:.4f}"
