"""Plain text for terminals and logs: one line per round, one table at the end."""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fedpurel_app.core.names import clean
from fedpurel_app.reporting.columns import ACCURACIES, MODELS, detail_lines, number
from fedpurel_app.reporting.fronts import front_lines
from fedpurel_app.reporting.novel import LEGEND as NOVEL
from fedpurel_app.reporting.novel import novel_lines
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.reporting.selection import chosen
from fedpurel_app.reporting.settings import run_in_words
from fedpurel_app.reporting.site_table import site_lines
from fedpurel_app.reporting.tokens import token_lines
from fedpurel_app.reporting.trust import mean_factors, trust_lines

_PLAIN = {"–": "-", "—": "-", "±": "+/-", "×": "x", "→": "->", "…": "...", "·": ".", "α": "alpha", "λ": "lambda"}


def spare_streams() -> None:
    """Let the terminal's streams replace what their encoding lacks: an outcome is worth more than its dashes."""
    codecs.register_error("fedpurel-plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="fedpurel-plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Return a plain stand-in for characters that an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


@contextmanager
def counting(doing: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that says on a terminal how far some work is; nothing of it stays when the work is done."""
    shown = ""

    def report(done: int, total: int) -> None:
        nonlocal shown
        if sys.stderr.isatty():
            line = f"{doing}: {done:,} of {total:,}"
            print(f"\r{line:<{len(shown)}}", end="", file=sys.stderr, flush=True)
            shown = line

    try:
        yield report
    finally:
        if shown:
            print(f"\r{'':<{len(shown)}}\r", end="", file=sys.stderr, flush=True)


def text_lines(text: str) -> str:
    """Print foreign text that may have lines, a few of them and no control character."""
    return "\n".join(clean(line, 1000) for line in text.splitlines()[:20])


def duration(seconds: float | None) -> str:
    """Print seconds as people say them."""
    if seconds is None:
        return number(None)
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def size_in_words(count: float) -> str:
    """Return a number of bytes as people write it.

    Examples
    --------
    >>> size_in_words(3_000_000), size_in_words(5 * 2**30)
    ('2.9 MiB', '5.0 GiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def round_line(line: Mapping[str, Any], eta: float | None = None) -> str:
    """Print one object of ``rounds.jsonl`` as one line.

    Parameters
    ----------
    line : mapping
    eta : float, optional
        Seconds that are left.
    """
    total = line["total_rounds"]
    if line["round"] == 0:
        parts = ["[start] before training:"]
        parts += _scores("zero-shot", line.get("zero_shot")) + _scores("global", line.get("global"))
        return "  ".join(parts)
    parts = [f"[{line['round']:>{len(str(total))}}/{total} {line['phase']:<8}]"]
    train = line["train"]
    if train.get("loss") is not None:
        parts.append(f"loss {train['loss']:.3f}")
    if train.get("conflict") is not None:
        parts.append(f"conflict {100 * train['conflict']:.0f}%")
    parts += _scores("global", line.get("global"))
    sites = line.get("sites") or {}
    if sites.get("global") and sites.get("personalized"):
        own = f" -> {number(sites['personalized']['all'])} personal"
        is_same = sites["global"] == sites["personalized"]  # where nobody has a model of its own
        parts.append(f"at sites {number(sites['global']['all'])}" + ("" if is_same else own))
    parts += _validation(line)
    parts.append(f"{len(line['usable'])}/{len(line['cohort'])} sites")
    if "epsilon" in line.get("privacy", {}):
        parts.append(f"epsilon {number(line['privacy']['epsilon'], 2)}")
    if line["kept_old_model"]:
        parts.append("KEPT OLD MODEL")
    if lost := line.get("private_restarted"):
        parts.append(
            f"{len(lost)} LOST THEIR PRIVATE BRANCH ({clean(', '.join(lost[:3]))}{' ...' if len(lost) > 3 else ''})"
        )
    if line["dropped"]:
        site, reason = line["dropped"][0]
        more = f", and {len(line['dropped']) - 1} more" if len(line["dropped"]) > 1 else ""
        first = reason.strip().partition("\n")[0]
        parts.append(f"({clean(site, 64)}: {clean(first, 120)}{more})")
    parts.append(f"{number(line['seconds']['total'])} s")
    if eta is not None:
        parts.append(f"eta {duration(eta)}")
    return "  ".join(parts)


def _scores(name: str, scores: Mapping[str, float | None] | None) -> list[str]:
    if not scores:
        return []
    return [f"{name} {number(scores['all'])} (few {number(scores['few'])}, balanced {number(scores['balancedness'])})"]


def _validation(line: Mapping[str, Any]) -> list[str]:
    """Say what the round has on validation data, and which one is the best so far of the model that it trains."""
    model = "personalized" if line["phase"] == "personal" else "global"
    if not (scores := (line.get("validation") or {}).get(model)):
        return []
    choice = (line.get("best") or {}).get(model)
    return [f"validation {number(scores.get('pooled'))}" + (f" (best: round {choice['round']})" if choice else "")]


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """Print ``summary.json`` as a small table."""
    lines = [
        f"{'':<22}{'all':>8}{'many':>8}{'medium':>8}{'few':>8}{'balanced':>10}",
    ]
    for key, title in MODELS.items():
        scores = summary.get(key)
        if scores is None:
            lines.append(f"{title:<22}  – ({clean((summary.get('reasons') or {}).get(key, 'not known'))})")
        else:
            lines.append(_row(title, scores))
    lines += _best(summary) + detail_lines(summary) + front_lines(summary.get("fronts") or {})
    if novel := novel_lines([summary]):
        lines += [*novel, NOVEL]
    if lost := summary.get("private_restarted"):
        lines.append(f"private branches lost and begun afresh: {len(lost)} ({clean(', '.join(lost), 1000)})")
    if privacy := summary.get("privacy"):
        lines.append(privacy_line(privacy))
    metric = summary.get("balancedness_is")
    if metric:
        lines.append(
            f"accuracies in %; balanced = Balancedness x 100 with p = {metric['power']:g}, sigma = {metric['sigma']:g}"
        )
    return lines


def _row(title: str, scores: Mapping[str, float | None]) -> str:
    cells = [f"{number(scores.get(column)):>{10 if column == 'balancedness' else 8}}" for column in ACCURACIES]
    return f"{title:<22}" + "".join(cells)


def _best(summary: Mapping[str, Any]) -> list[str]:
    """Print the test scores of the rounds that validation data chose, and by what; or why none was."""
    best = chosen(summary)
    if not best:
        why = (summary.get("reasons") or {}).get("best")
        return [f"no best model: {clean(why)}"] if why else []
    titles = {"global": "best global", "global_at_sites": "best global, at sites", "personalized": "best personalized"}
    rounds = [
        f"{name} {choice['round']} ({number(choice['validation'])})"
        for name, choice in (
            ("global", best.get("global_at_sites") or best.get("global")),
            ("personalized", best.get("personalized")),
        )
        if choice
    ]
    by = clean(summary["best"]["select_by"], 32)
    return [
        *(_row(title, best[key]) for key, title in titles.items() if key in best),
        f"best rounds, by {by} on the sites' validation parts: {', '.join(rounds)}",
    ]


def privacy_line(privacy: Mapping[str, Any]) -> str:
    """Print what a run spent of its privacy."""
    kind = clean(privacy["kind"], 64)
    if privacy["epsilon"] is None or privacy["delta"] is None:
        return f"privacy {kind}: Flower keeps no account of epsilon for it"
    return (
        f"privacy {kind}: epsilon = {privacy['epsilon']:.2f} at delta = {privacy['delta']:g} after "
        f"{privacy['releases']} releases of the parameters (metrics and scores are not in it)"
    )


def show(folder: RunFolder) -> None:
    """Print to the terminal what a run was and how it ended."""
    for line in show_lines(folder):
        print(line)


def show_lines(folder: RunFolder) -> list[str]:
    """Print what a run was, how it ended, and where its time went."""
    config, summary, rounds = folder.read_json("config.json")["config"], folder.summary(), folder.rounds()
    lines = [clean(run_in_words(config))]
    if summary is None:
        done = rounds[-1]["round"] if rounds else 0
        if folder.is_running:
            return [*lines, f"running: {done} rounds so far. Follow it: fedpurel watch {folder.path}"]
        return [*lines, f"cut off after {done} rounds. Continue: {folder.how_to_resume}"]
    lines.append(
        f"{summary['outcome']}, {summary.get('rounds', 0)} rounds"
        + (f": {text_lines(summary['error'])}" if summary.get("error") else "")
    )
    if "zero_shot" in summary:
        lines += summary_lines(summary) + site_lines(folder.read_csv("sites.csv"), mean_factors(rounds))
        lines += trust_lines(rounds)
    lines += token_lines(rounds)
    if {"dropped_replies", "bytes_up", "bytes_down"} <= set(summary):
        up, down = (summary[f"bytes_{way}"] / 1e6 for way in ("up", "down"))
        lines.append(f"{summary['dropped_replies']} replies dropped; {up:.1f} MB from the sites, {down:.1f} MB to them")
    if isinstance(summary.get("seconds"), Mapping):
        parts = {name: value for name, value in summary["seconds"].items() if name != "total"}
        spent = ", ".join(f"{clean(name.replace('_', '-'), 32)} {duration(value)}" for name, value in parts.items())
        lines.append(f"{duration(summary['seconds']['total'])} at the server: {spent}")
    return [*lines, f"run folder: {folder.path}"]
