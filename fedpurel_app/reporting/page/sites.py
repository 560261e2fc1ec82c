"""The sites of a run: a table of all, and a section for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedpurel_app.core.names import clean, listed
from fedpurel_app.reporting.columns import number
from fedpurel_app.reporting.page.blocks import Block, Items, Link, Part, Section, Table, Text, table
from fedpurel_app.reporting.page.drawn import class_names, drawn, site_names
from fedpurel_app.reporting.page.snapshot import Snapshot
from fedpurel_app.reporting.trust import factor_in_words, factors_by_site, mean_factors, trust_lines

_MOST_ROWS, _MOST_PARTS = 500, 60
_MODELS = (("zero-shot", "zero_shot"), ("global", "global"), ("personalized", "personalized"))
_LAST = 6  # rounds and classes that a site's section names

Row = Mapping[str, str]


def sites_section(run: Snapshot) -> Section:
    """Return the table of sites with gains and their intervals, and a section of each of them."""
    rows = run.read_csv("sites.csv")
    if not rows:
        why = "No scores by site: sites.csv is written with the first evaluation at the sites, of those that tell them."
        return Section("sites", "Sites", (Text(why),))
    detailed = _detailed(rows)
    trust = mean_factors(run.played)
    lines = [_line(row, index if index in detailed else None, trust) for index, row in enumerate(rows[:_MOST_ROWS])]
    header = ("site", "test images", "global", "95 % interval", "personalized", "95 % interval", "gain",
              "95 % interval", "global − zero-shot", *(["trust"] if trust else []))  # fmt: skip
    notes = [
        "Accuracy in % on the site's own test part. Gain: personalized minus global, in points; where its interval "
        "holds 0, the test part is too small to tell.",
        *(["Trust: mean factor of the weight of a site's replies in the mean; 1 = by their images."] if trust else []),
        *trust_lines(run.played),
        *([f"The first {_MOST_ROWS} of {len(rows)} sites; all are in sites.csv."] if len(rows) > _MOST_ROWS else []),
        *([f"{len(detailed)} of {len(rows)} sites have a section below: those that gain least and most."]
          if len(detailed) < len(rows) else []),
    ]  # fmt: skip
    whole = table("Sites at the last evaluation", header, lines)
    parts = [_part(run, rows[index], index) for index in sorted(detailed)]
    return Section("sites", "Sites", (*drawn(run, "sites"), *drawn(run, "fronts"), *map(Text, notes), whole, *parts))


def dropped_section(run: Snapshot) -> Section:
    """Return what was dropped, of which sites, when and why; and what else went amiss."""
    found: dict[str, list[tuple[int, str]]] = {}
    for line in run.played:
        for site, reason in line["dropped"]:
            found.setdefault(clean(reason.strip().partition("\n")[0], 300), []).append((line["round"], site))
    kept = [str(line["round"]) for line in run.played if line["kept_old_model"]]
    lost = sorted({site for line in run.played for site in line.get("private_restarted", [])})
    held = sorted({site for line in run.played for site in line.get("scores_withheld") or []})
    notes = [
        *([f"Rounds that kept the old model, for too few replies were usable: {_listed(kept)}."] if kept else []),
        *([f"Sites that lost their private branch and began a fresh one: {_listed(lost)}."] if lost else []),
        *([f"Sites that keep their scores to themselves: {_listed(held)}."] if held else []),
    ]
    if not found:
        return Section("dropped", "What was dropped", (Text("No reply was dropped."), *map(Text, notes)))
    most = sorted(found.items(), key=lambda pair: -len(pair[1]))
    rows = [
        [reason, len(times), _listed([site for _, site in times]), _listed([str(one) for one, _ in times])]
        for reason, times in most[:_MOST_PARTS]
    ]
    left = f" The {len(rows)} most frequent of {len(most)} reasons." if len(rows) < len(most) else ""
    total = sum(map(len, found.values()))
    count = "1 reply was" if total == 1 else f"{total} replies were"
    said = Text(f"{count} dropped: the round went on without.{left}")
    by_reason = table("Dropped replies by reason", ("reason", "replies", "sites", "rounds"), rows)
    return Section("dropped", "What was dropped", (said, by_reason, *map(Text, notes)))


def _detailed(rows: Sequence[Row]) -> set[int]:
    """Choose the sites with a section: all, or those with the smallest and the largest gain."""
    order = sorted(range(len(rows)), key=lambda index: float(rows[index]["gain"] or 0.0))
    half = _MOST_PARTS // 2
    return set(order if len(order) <= _MOST_PARTS else [*order[:half], *order[-half:]])


def _line(row: Row, anchor: int | None, trust: Mapping[str, float]) -> list[object]:
    name = clean(row["site"], 64)
    gain = _value(row, "gain", "+") if row["has_private_branch"] == "1" else "no branch"
    return [
        name if anchor is None else Link(name, f"#site-{anchor}"), row.get("test_images"),
        _value(row, "global"), _interval(row, "global"), _value(row, "personalized"), _interval(row, "personalized"),
        gain, _interval(row, "gain", "+"), _value(row, "global_gain", "+"),
        *([factor_in_words(trust[row["site"]]) if row["site"] in trust else number(None)] if trust else []),
    ]  # fmt: skip


def _part(run: Snapshot, row: Row, index: int) -> Part:
    """Return a site's section."""
    site = row["site"]
    known = next((one for one in run.roster if one["site"] == site), {})
    images = f"{known['num_examples']} training and {row.get('test_images', '0')} test images" if known else (
        f"{row.get('test_images', '0')} test images")  # fmt: skip
    gain = "It has no private branch: its personalized model is the global one."
    if row["has_private_branch"] == "1":
        between = f", 95 % interval {_interval(row, 'gain', '+')}" if row.get("gain_low") else ""
        gain = f"Its personalized model gains {_value(row, 'gain', '+')} points on the global one{between}."
    scores = Table(
        "Models on this site's test part",
        ("model", "accuracy [%]", "95 % interval", "ECE", "NLL"),
        tuple(
            (title, _value(row, key), _interval(row, key), _value(row, f"{key}_ece"), _value(row, f"{key}_nll", "", 3))
            for title, key in _MODELS
        ),
    )
    facts = (*_classes(run, site), *_course(run, site), *_weighed(run, site))
    blocks: tuple[Block, ...] = (Text(f"{images}. {gain}"), scores, *([Items(facts)] if facts else []))
    return Part(f"site-{index}", clean(site, 64), blocks)


def _classes(run: Snapshot, site: str) -> list[str]:
    """Say which classes a site has most images of, where that is known."""
    by_name = dict(zip(site_names(run), run.partition.get("train_by_class") or [], strict=True))
    if not (own := by_name.get(site)):
        return []
    names = class_names(run)
    most = sorted(own.items(), key=lambda pair: (-pair[1], int(pair[0])))[:_LAST]
    told = ", ".join(f"{names[int(label)]} ({count})" for label, count in most)
    return [f"Training images of {len(own)} of {len(names)} classes; most of {told}."]


def _course(run: Snapshot, site: str) -> list[str]:
    """Say when a site took part last, and what of it was dropped or lost."""
    used = [line["round"] for line in run.played if site in line["usable"]]
    dropped = [(line["round"], why) for line in run.played for one, why in line["dropped"] if one == site]
    lost = [str(line["round"]) for line in run.played if site in line.get("private_restarted", [])]
    took = f"Took part in {len(used)} of {len(run.played)} rounds"
    facts = [f"{took}, last in {', '.join(map(str, used[-_LAST:]))}." if used else f"{took}."]
    facts += [f"Dropped in round {number}: {clean(why.strip(), 300)}" for number, why in dropped[-_LAST:]]
    if len(dropped) > _LAST:
        facts.append(f"{len(dropped) - _LAST} earlier replies of it were dropped as well.")
    return facts + ([f"Lost its private branch in round {_listed(lost)}."] if lost else [])


def _weighed(run: Snapshot, site: str) -> list[str]:
    """Say how much of its weight a site's replies had."""
    if not (own := factors_by_site(run.played).get(site)):
        return []
    mean, least = sum(own.values()) / len(own), min(own, key=lambda number: own[number])
    return [
        f"Trust: its replies had {factor_in_words(mean)} of their weight on average, and "
        f"{factor_in_words(own[least])} in round {least}."
    ]


def _value(row: Row, name: str, sign: str = "", digits: int = 1) -> str:
    return _minus(f"{float(row[name]):{sign}.{digits}f}") if row.get(name) else number(None)


def _interval(row: Row, name: str, sign: str = "") -> str:
    low, high = (row.get(f"{name}_{end}") for end in ("low", "high"))
    return _minus(f"[{float(low):{sign}.1f}, {float(high):{sign}.1f}]") if low and high else number(None)


def _minus(text: str) -> str:
    return text.replace("-", "−")  # as wide as a plus


def _listed(names: Sequence[str], most: int = 12) -> str:
    """Write names once each, the first of many."""
    return listed([clean(one, 64) for one in dict.fromkeys(names)], most)
