"""Which round's model is the best, by the sites' validation parts and never by test data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fedpurel_app.algorithms.registry import METHODS

Choice = dict[str, Any]  # "round" and "value", the score in percent
_COLUMNS = {"all": "pooled"}  # by value of select-by; others are called alike


class Selection:
    """Keeps the best round of the global and of the personalized models while a run goes on.

    Parameters
    ----------
    settings : mapping
        Of the run, by key.
    rounds : iterable of mapping
        Lines of ``rounds.jsonl`` that are there.

    Attributes
    ----------
    best : dict of str to dict
        For "global" and "personalized": ``round`` and ``value``, the score in percent, of the first round with the
        highest score. Models without one are left out.

    Notes
    -----
    A model is chosen among the evaluated rounds of the phase that trains it, so the personalized one among personal
    rounds where there are any; in an interleaved schedule, where each evaluation scores both, among all.
    """

    def __init__(self, settings: Mapping[str, Any], rounds: Iterable[Mapping[str, Any]] = ()) -> None:
        # A run of before there were these keys had no validation part.
        self.by, self.is_on = str(settings.get("select-by", "all")), bool(settings.get("validation-share"))
        method, interleaved = METHODS[settings["algorithm"]], settings.get("schedule") == "interleaved"
        personal = method.personal_rounds and (interleaved or settings.get("personal-rounds") != 0)
        # By model, the phases in which it is not chosen: others score again what they do not train.
        self._not_in = {"global": {"personal"} if settings.get("global-rounds") != 0 and not interleaved else set()}
        if method.personalizes:
            self._not_in["personalized"] = {"global"} if personal else set()
        self.best: dict[str, Choice] = {}
        for line in rounds if self.is_on else ():
            self.see(line)

    def see(self, line: Mapping[str, Any]) -> None:
        """Take a round's scores into account; a later round with the same score does not replace an earlier one."""
        for model, phases in self._not_in.items():
            value = self._score(line, model)
            if line["phase"] not in phases and value is not None:
                before = self.best.get(model)
                if before is None or value > before["value"]:
                    self.best[model] = {"round": int(line["round"]), "value": value}

    def lacks_score(self, line: Mapping[str, Any]) -> bool:
        """Tell whether a round has validation scores, and not the one to choose by."""
        return bool(line.get("validation")) and self._score(line, "global") is None

    def _score(self, line: Mapping[str, Any], model: str) -> float | None:
        scores = (line.get("validation") or {}).get(model) or {}
        value = scores.get(_COLUMNS.get(self.by, self.by.replace("-", "_")))
        return None if value is None else float(value)


def chosen(summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the test scores of the rounds that validation data chose, by model; empty where none did.

    Parameters
    ----------
    summary : mapping
        Of ``summary.json``. What an older version wrote as ``best`` was chosen on test data, and is none.
    """
    best = summary.get("best") or {}
    models = ("global", "global_at_sites", "personalized")
    return {model: best[model] for model in models if best.get(model)} if best.get("select_by") else {}
