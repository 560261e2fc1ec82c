"""The table of sites as a terminal shows it: every site's models, and what each gains on the one before it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fedpurel_app.core.names import clean
from fedpurel_app.reporting.columns import number
from fedpurel_app.reporting.trust import factor_in_words

_MOST = 40  # rows; a table of more sites is read as CSV
_SHOWN = ("global", "personalized", "global_gain", "gain")
_ENDS = {f"{one}_{end}" for one in _SHOWN for end in ("low", "high")}
_NEEDED = {"site", "test_images", "has_private_branch", *_SHOWN, *_ENDS}
_LEGEND = "GM: global, PM: personalized model; accuracies in % with 95 % intervals (docs/metrics.md)"

_OF_TRUST = "trust: mean factor of the weight of a site's replies, 1 = by their images (docs/methods/trust.md)"


def any_branch(rows: Iterable[Mapping[str, str]]) -> bool:
    """Tell whether a site of ``sites.csv`` has trained a private branch."""
    return any(row["has_private_branch"] == "1" for row in rows)


def site_lines(rows: Sequence[Mapping[str, str]], trust: Mapping[str, float] | None = None) -> list[str]:
    """Print ``sites.csv``; nothing for a run of before it had intervals.

    Parameters
    ----------
    rows : sequence of mapping of str to str
        Of :meth:`RunFolder.read_csv`.
    trust : mapping of str to float, optional
        Mean factor of the weights of a site's replies, of a run that has them.
    """
    if not rows or not rows[0].keys() >= _NEEDED:
        return []
    width = max(8, *(min(len(row["site"]), 24) for row in rows))
    head = f"{'site':<{width}}{'images':>8}{'GM':>7}{'':>14}{'PM':>7}{'':>14}{'GM - zero-shot':>22}{'PM - GM':>22}"
    lines = [head.rstrip() if not trust else f"{head}{'trust':>8}"]
    for row in rows[:_MOST]:
        models = "".join(_cell(row, name, 7, 14) for name in ("global", "personalized"))
        gains = "".join(_cell(row, name, 7, 15, "+") for name in ("global_gain", "gain"))
        flag = "" if row["has_private_branch"] == "1" else "  (no branch: PM is GM)"
        weighed = f"{factor_in_words(trust[row['site']]) if row['site'] in trust else number(None):>8}" if trust else ""
        lines.append(
            f"{clean(row['site'], 24):<{width}}{clean(row['test_images'], 12):>8}{models}{gains}{weighed}{flag}"
        )
    if len(rows) > _MOST:
        lines.append(f"... and {len(rows) - _MOST} more sites in sites.csv")
    return [*lines, _LEGEND, *([_OF_TRUST] if trust else [])]


def _cell(row: Mapping[str, str], name: str, width: int, room: int, sign: str = "") -> str:
    """Print a number with its interval."""
    low, high = (row[f"{name}_{end}"] for end in ("low", "high"))
    value = f"{float(row[name]):{sign}.1f}" if row[name] else number(None)
    between = f" [{float(low):{sign}.1f}, {float(high):{sign}.1f}]" if low and high else ""
    return f"{value:>{width}}{between:<{room}}"
