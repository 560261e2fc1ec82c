"""What a model's card says beside scores: of its source, its data, what left the sites, and its limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median, pstdev
from typing import Any

from fedpurel_app.algorithms.balancers.registry import BALANCERS
from fedpurel_app.algorithms.registry import METHODS, trusts
from fedpurel_app.core.metrics import GROUPS
from fedpurel_app.core.names import listed
from fedpurel_app.models.peft.registry import FAMILIES
from fedpurel_app.reporting.columns import number
from fedpurel_app.reporting.console import privacy_line, size_in_words
from fedpurel_app.reporting.page.blocks import Block, Items, Section, Text, table
from fedpurel_app.reporting.page.lead import sites_of
from fedpurel_app.reporting.page.snapshot import Snapshot
from fedpurel_app.reporting.run_folder import PERSONALIZED
from fedpurel_app.reporting.settings import data_in_words

_NAMED = 12  # classes of a group


def model_section(run: Snapshot) -> Section:
    """Return what was trained, by which method, and where that is published."""
    config = run.config
    rows = [
        _named("method", METHODS, config["algorithm"]),
        *([_named("balancer", BALANCERS, config["balancer"])] if config.get("balancer", "none") != "none" else []),
        ["trained part", str(config["peft"]), _attribute(FAMILIES.get(config["peft"]), "paper")],
        ["frozen CLIP", _backbone(config), ""],
    ]
    return Section("model", "Model", (table("What it is", ("part", "name", "source"), rows, 3),))


def data_section(run: Snapshot) -> Section:
    """Return which data, at how many sites, with how many images of which classes; and what was left out, and why."""
    config, rows = run.config, run.read_csv("classes.csv")
    facts = [f"Data set: {config['dataset']}, {data_in_words(config)}."]
    names = [row["name"] for row in rows] or [str(one) for one in run.optional("classes.json").get("class_names") or []]
    facts += [f"{len(names)} classes: {listed(names, 60)}."] if names else []
    sizes = [sum(counts.values()) for counts in run.partition.get("train_by_class", [])]
    sizes = sizes or [one["num_examples"] for one in run.roster]
    if sizes:
        spread = f" ({min(sizes):,} to {max(sizes):,} each, median {median(sizes):,.0f})" if len(sizes) > 1 else ""
        facts.append(f"{sum(sizes):,} training images at {_counted(sites_of(run), 'site')}{spread}.")
    blocks: list[Block] = [Items(tuple(facts)), *_groups(rows)]
    notes = run.optional("classes.json").get("notes")
    if notes is None:
        left = ["What was left out of the data was not written down: the run is of an older version."]
    else:
        left = [f"{note}." for note in map(str, notes)] or ["Nothing was left out of the data."]
    if config["dataset"] == "sites":
        left = ["What a site left out of its own data stands in its own log; no other machine knows it."]
    return Section("data", "Data", (*blocks, Text("Left out, or to be known of them:"), Items(tuple(left))))


def spread_section(run: Snapshot) -> Section:
    """Return how the models' accuracies spread over the sites, which are not named."""
    rows, lines = run.read_csv("sites.csv"), []
    for title, column in (("zero-shot", "zero_shot"), ("global", "global"), ("personalized", "personalized"),
                          ("gain of personalized over global", "gain")):  # fmt: skip
        found = [float(row[column]) for row in rows if row.get(column)]
        if found:
            lines.append([title, len(found), fmean(found), pstdev(found), min(found), max(found)])
    if not lines:
        return Section("spread", "Spread over the sites", (Text("The sites keep their scores to themselves."),))
    header = ("model", "sites", "mean", "deviation", "worst", "best")
    gains = [float(row["gain"]) for row in rows if row["gain"] and row["has_private_branch"] == "1"]
    said = f"{sum(gain > 0 for gain in gains)} of {len(gains)} sites with a branch of their own gain by it, "
    more = f"{said}{sum(gain < 0 for gain in gains)} lose." if gains else "No site has a branch of its own."
    whole = table("Accuracy on each site's own test part, in %; gains in points", header, lines)
    return Section("spread", "Spread over the sites", (whole, Text(more)))


def privacy_section(run: Snapshot) -> Section:
    """Return what left a site, and what bounds what it tells."""
    config, spent = run.config, run.scores.get("privacy")
    facts = [_sent(run)]
    if METHODS.get(config["algorithm"]) and METHODS[config["algorithm"]].personalizes:
        facts.append("What a site trained for itself alone never left it, and is not in the global model.")
    facts.append(_noise(config))
    facts += [f"{privacy_line(spent)}."] if spent else []
    facts.append(f"Aggregation: {config['aggregation']}, which {_bounds(config)}.")
    if any(line["usable"] for line in run.played if line["phase"] == "global"):
        facts.append("Secure aggregation: none; the server saw each site's parameters.")
    shares = {True: "yes", False: "no, totals alone", "auto": "in a simulation alone"}[config["share-class-counts"]]
    facts.append(f"Class counts of test parts were asked of the sites: {shares}; a site's own settings may keep more.")
    return Section("privacy", "Privacy", (Items(tuple(facts)),))


def limits_section(run: Snapshot) -> Section:
    """Return what the model is not made for, and what its numbers do not say."""
    config, scores = run.config, run.scores
    facts = [
        "It tells apart the classes above and no others; every image gets one of them.",
        f"The scores are of one run with seed {config['seed']}: other seeds give others.",
        "Test images are from where the training images are from. Elsewhere accuracy is another.",
        "The licences of the data and of the frozen CLIP's weights are not known here, and apply.",
    ]
    if config.get("backbone") == "demo" and config["dataset"] != "features":
        facts.append("The demo CLIP is a small one that knows rendered shapes and their words alone.")
    if METHODS.get(config["algorithm"]) and METHODS[config["algorithm"]].personalizes:
        facts.append("A personalized model is made for its own site; with other mixes of classes it may do worse.")
    best, base = scores.get("global") or {}, scores.get("zero_shot") or {}
    if None not in (best.get("few"), base.get("few")) and best["few"] < base["few"]:
        facts.append(
            f"On rare classes it is worse than the CLIP that it was made of: {number(best['few'])} instead of "
            f"{number(base['few'])} %."
        )
    if None not in (best.get("ece"), base.get("ece")) and best["ece"] > base["ece"]:
        facts.append("Its confidences are further from its accuracy than those of the CLIP that it was made of.")
    for key, reason in sorted((scores.get("reasons") or {}).items()):
        facts.append(f"Not known: {key} ({reason}).")
    return Section("limits", "Limits", (Items(tuple(facts)),))


def _named(part: str, registry: Mapping[str, Any], name: str) -> list[str]:
    entry = registry.get(name)
    return [part, _attribute(entry, "title") or name, _attribute(entry, "paper")]


def _attribute(entry: object, name: str) -> str:
    return str(getattr(entry, name, "") or "")


def _backbone(config: Mapping[str, Any]) -> str:
    """Name the frozen CLIP; of a file of weights its name, and not where it lay."""
    weights = str(config.get("pretrained", "")).rpartition("/")[2]
    name = str(config.get("backbone", "unknown"))
    if config["dataset"] == "features":
        return "whatever encoded the features: the run does not know it"
    return name if name == "demo" else f"{name}, weights {weights}, {config.get('precision', 'fp32')}"


def _groups(rows: Sequence[Mapping[str, str]]) -> list[Block]:
    """Return the groups of classes, from head to tail, with their training images."""
    lines = []
    for group in GROUPS:
        members = [row for row in rows if row["group"] == group]
        counts = [int(row["train_images"]) for row in members if row["train_images"]]
        if counts:
            names = listed([row["name"] for row in members], _NAMED)
            lines.append([group.capitalize(), names, len(members), sum(counts), min(counts), max(counts)])
    header = ("group", "classes", "number", "training images", "fewest of a class", "most of a class")
    return [table("Head and tail", header, lines, 2)] if lines else []


def _sent(run: Snapshot) -> str:
    lines = [line for line in run.played if line["phase"] == "global"]
    visits = sum(len(line["usable"]) for line in lines)
    if not visits and PERSONALIZED in run.content:
        return "The site sent nothing: it trained at home. The global model is of another run, whose card says more."
    if not visits:
        return "No parameters left a site in this run."
    size = size_in_words(sum(line["bytes_up"] for line in lines) / visits)
    return f"In {_counted(len(lines), 'global round')} sites sent trained parameters and numbers, {size} a visit."


def _noise(config: Mapping[str, Any]) -> str:
    """Say which noise covers what is sent."""
    kind = config.get("privacy", "none")
    if kind == "none":
        return "Differential privacy: none (privacy = none)."
    how = f"noise multiplier {config['noise-multiplier']:g}"
    if kind == "local":
        how = f"epsilon {config['local-epsilon']:g} of every reply"
    return f"Differential privacy of global rounds: {kind}, clipping norm {config['clipping-norm']:g}, {how}."


def _bounds(config: Mapping[str, Any]) -> str:
    if config["aggregation"] == "norm-clipping":
        return f"bounds an update's norm by {config['clipping-norm']:g}"
    if trusts(config):
        return "bounds no update by itself; replies that predict other than most weigh less (trust)"
    return "bounds no update" if config["aggregation"] == "mean" else "bounds what a few lying sites can do"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
