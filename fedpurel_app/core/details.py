"""What an evaluation counts beside right answers: confidence, losses, predictions. Integers that pool exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedpurel_app.core.calibration import MOST_NATS, UNIT, Bins, fixed_point
from fedpurel_app.core.metrics import GROUPS, ClassCounts, pool

Ints = npt.NDArray[np.int64]
Groups = Mapping[str, Ints]
NAMES = ("ece", "ece_many", "ece_few", "nll", "macro_f1", "tail_as_head")
_ENDS = ("many", "few")


@dataclass(frozen=True, eq=False)
class Details:
    """Of one model on some images; each is None where it is not known.

    Attributes
    ----------
    bins : Bins or None
        By confidence.
    nll : int or None
        Sum of the negative log-likelihoods of the labels, in units of 2^-16 nats.
    predicted : ndarray of int64, shape (C,), or None
        How often each class was predicted.
    confusion : ndarray of int64, shape (3, 3), or None
        Images by the group of their class (rows) and of the predicted one (columns), in the order of :data:`GROUPS`.
    """

    bins: Bins | None = None
    nll: int | None = None
    predicted: Ints | None = None
    confusion: Ints | None = None

    @classmethod
    def of(
        cls,
        labels: Ints,
        predicted: Ints,
        confidence: npt.NDArray[np.floating],
        nll: npt.NDArray[np.floating],
        classes: int,
        groups: Groups | None,
    ) -> Details:
        """Count predictions.

        Parameters
        ----------
        labels, predicted : ndarray of int64, shape (N,)
        confidence : ndarray of float, shape (N,)
            Probability of the predicted class.
        nll : ndarray of float, shape (N,)
            −log probability of the label [nats]; cut to 1,000, which also stands for what is not finite.
        classes : int
            C.
        groups : mapping of str to ndarray of int64, or None
            Class indices of "many", "medium" and "few".
        """
        hits, times = predicted == labels, np.bincount(predicted, minlength=classes)
        loss = int(fixed_point(nll, MOST_NATS, MOST_NATS).sum())
        if groups is None:
            return cls(Bins.of(confidence, hits), loss, times)
        group = group_of(groups, classes)
        pairs = np.bincount(3 * group[labels] + group[predicted], minlength=9).reshape(3, 3)
        return cls(Bins.of(confidence, hits, group[labels], len(GROUPS)), loss, times, pairs)

    def __bool__(self) -> bool:
        """Whether anything is known."""
        return any(part is not None for part in (self.bins, self.nll, self.predicted, self.confusion))

    def totals(self) -> Details:
        """Return what tells nothing of single classes or groups of them."""
        return Details(None if self.bins is None else self.bins.over_groups(), self.nll)

    def require(self, counts: ClassCounts) -> None:
        """Raise ValueError unless the numbers can belong to counts of right answers, shape (C,) or in all."""
        total, correct = int(counts.total.sum()), int(counts.correct.sum())
        if self.bins is not None and (int(self.bins.total.sum()), int(self.bins.correct.sum())) != (total, correct):
            raise ValueError("bins of confidence do not add up to the counts")
        if self.nll is not None and not 0 <= self.nll <= total * int(MOST_NATS) * UNIT:
            raise ValueError(f"a sum of losses of {self.nll} units is impossible for {total} images")
        if self.predicted is not None:
            if self.predicted.shape != counts.total.shape or (self.predicted < counts.correct).any():
                raise ValueError("a class was predicted less often than rightly, or there are other classes")
            if int(self.predicted.sum()) != total:
                raise ValueError("predictions do not add up to the counts")
        if self.confusion is not None:
            if self.confusion.shape != (3, 3) or (self.confusion < 0).any() or int(self.confusion.sum()) != total:
                raise ValueError("the confusion of groups does not add up to the counts")
            if int(np.trace(self.confusion)) < correct:
                raise ValueError("fewer images stay in their group than are right")


def group_of(groups: Groups, classes: int) -> Ints:
    """Return the number of every class's group in :data:`GROUPS`, shape (C,)."""
    group = np.zeros(classes, np.int64)
    for number, name in enumerate(GROUPS):
        group[groups[name]] = number
    return group


def detail_scores(scored: Sequence[tuple[ClassCounts, Details | None]], classes: int | None) -> dict[str, float | None]:
    """Pool details of several sets of images, and turn them into the numbers that are reported.

    Parameters
    ----------
    scored : sequence of (ClassCounts, Details or None)
        Of each set, as of every site's own test part.
    classes : int or None
        C; predictions by class count where they are of so many.

    Returns
    -------
    dict
        ``ece``, ``ece_many``, ``ece_few`` (of images of these classes), ``macro_f1`` and ``tail_as_head`` in percent,
        ``nll`` in nats per image. Each is of the sets that know it, and None where those are fewer than half.
    """
    scores: dict[str, float | None] = dict.fromkeys(NAMES)
    if (bins := pooled_bins(scored)) is not None:
        scores["ece"] = _percent(bins.ece)
    if (bins := pooled_bins(scored, by_group=True)) is not None:
        scores |= {f"ece_{name}": _percent(bins.rows(GROUPS.index(name)).ece) for name in _ENDS}
    losses = [(counts, one.nll) for counts, one in scored if one is not None and one.nll is not None]
    if _are_most(losses, scored) and (number := sum(int(counts.total.sum()) for counts, _ in losses)):
        scores["nll"] = sum(loss for _, loss in losses) / UNIT / number
    predicted = [
        (counts, one.predicted)
        for counts, one in scored
        if one is not None and one.predicted is not None and len(one.predicted) == classes
    ]
    if _are_most(predicted, scored) and (counts := pool(one for one, _ in predicted)) is not None:
        scores["macro_f1"] = _percent(macro_f1(counts, np.sum([times for _, times in predicted], 0)))
    confusion = [one.confusion for _, one in scored if one is not None and one.confusion is not None]
    if _are_most(confusion, scored):
        tail = sum(confusion, np.zeros((3, 3), np.int64))[GROUPS.index("few")]
        scores["tail_as_head"] = _percent(tail[GROUPS.index("many")] / tail.sum()) if tail.sum() else None
    return scores


def _are_most(known: Sequence[object], scored: Sequence[object]) -> bool:
    return bool(known) and 2 * len(known) >= len(scored)


def pooled_bins(scored: Sequence[tuple[ClassCounts, Details | None]], by_group: bool = False) -> Bins | None:
    """Add the bins of several sets of images up; None where fewer than half of the sets have them.

    Parameters
    ----------
    scored : sequence of (ClassCounts, Details or None)
    by_group : bool
        Whether to keep the groups of :data:`GROUPS` apart, G = 3, of the sets that know them; else G = 1.
    """
    known = [one.bins for _, one in scored if one is not None and one.bins is not None]
    known = (
        [one for one in known if len(one.total) == len(GROUPS)] if by_group else [one.over_groups() for one in known]
    )
    return sum(known[1:], known[0]) if _are_most(known, scored) else None


def macro_f1(counts: ClassCounts, predicted: Ints) -> float | None:
    """Compute the mean F1 of the classes that have test images, in [0, 1]; None without any.

    Parameters
    ----------
    counts : ClassCounts
    predicted : ndarray of int64, shape (C,)

    Notes
    -----
    F1_c = 2 correct_c / (total_c + predicted_c).
    """
    scored = counts.total > 0
    f1 = 2 * counts.correct[scored] / (counts.total + predicted)[scored]
    return float(f1.mean()) if scored.any() else None


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * float(value)
