"""Write ``docs/methods.md``: a card of every method, balancer and variant, printed from its own value.

    python tools/write_cards.py

Equations are those of the method's docstring, departures its ``reading``, names those on the wire and in private files;
bytes and seconds of a visit come from ``docs/costs.json``, which ``benchmarks/methods.py --json`` measures.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterable
from importlib import import_module
from inspect import cleandoc
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from fedpurel_app.algorithms.balancers.registry import BALANCERS, Balancer
from fedpurel_app.algorithms.beyond.registry import VARIANTS, Variant
from fedpurel_app.algorithms.method import Method
from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.config import RunConfig, load_config
from fedpurel_app.config.text import to_toml
from fedpurel_app.core.options import Option
from fedpurel_app.experiment import Experiment
from fedpurel_app.models.peft.base import parameters_of
from fedpurel_app.models.peft.registry import FAMILIES

_DOCS = Path(__file__).parent.parent / "docs"
PAGE, COSTS = _DOCS / "methods.md", _DOCS / "costs.json"
_DEFAULTS = {str(field.alias): field.default for field in RunConfig.model_fields.values()}
OF_FAMILIES = (
    Variant(
        "relocation",
        "Prompts that move between blocks (PRO-VPT)",
        tuple(option for option in FAMILIES["visual-prompt"].options if "relocat" in option.key),
        'prompt-relocation = "bandit"',
    ),
)
_HEAD = """# Methods, one card each

Printed by `python tools/write_cards.py` from the methods' own files. Names of parameters are those on the wire and in
private files, with `*` for numbers. *Ours* says what a source leaves open, or where we depart from it. Methods come
first, then balancers, variants of FedPuReL that are off by default ([beyond-the-paper.md](beyond-the-paper.md)), and at
last what a family can do under most methods.

Costs: {backbone}, {classes} classes; a visit of {steps} steps of {batch} images with features cached; {machine};
{date}, `benchmarks/methods.py`. In brackets the ratio to FedAvg with the same family.
"""


def sections(doc: str) -> tuple[str, list[str], str]:
    """Return the first line of a docstring, its other paragraphs up to the examples, and its references."""
    text, _, rest = cleandoc(doc).partition("\nReferences\n----------\n")
    summary, *paragraphs = text.strip("\n").split("\n\n")
    references = re.split(r"\n\n\w+\n-{3,}\n", rest)[0]
    return " ".join(summary.split("\n")), paragraphs, " ".join(references.split())


def as_markdown(paragraph: str) -> str:
    """Return equations as a code block, and other text as it is."""
    if paragraph.startswith("    "):
        return f"```text\n{cleandoc(paragraph)}\n```"
    text = re.sub(r":mod:`[~.]*([\w.]+)`", r"`\1`", paragraph)
    return text.replace("``", "`").replace("::", ":")


def names(parameters: Iterable[str]) -> str:
    """List names, numbers in them as stars."""
    return ", ".join(f"`{name}`" for name in dict.fromkeys(re.sub(r"\d+", "*", name) for name in parameters)) or "–"


def families(method: Method) -> list[str]:
    """List the families that a method goes with, at the defaults."""
    return [name for name in FAMILIES if not method.unfit({**_DEFAULTS, "algorithm": method.name, "peft": name})]


def parts(method: Method) -> tuple[str, str]:
    """Tell what is sent in global rounds, and what a site keeps, with the first family."""
    settings = load_config({"algorithm": method.name, "peft": families(method)[0]})
    with tempfile.TemporaryDirectory() as cache:
        kit = Experiment(settings, Path(cache)).kit
        module = kit.new_shared()
        sent, kept = kit.split(module)
        memory = {} if kit.algorithm.memory is None else kit.algorithm.memory(parameters_of(module), kit.facts())
    own = [names(kept)] if kept and method.trains else []
    if method.personal_rounds:
        stays = kit.split_private(kit.new_private())[1]
        own.append(f"a module of its own, trained in personal rounds: {names(stays)}")
    if kit.algorithm.memory is not None:
        own.append(f"what it remembers{': ' + names(memory) if memory else ''}")
    also = f"; in personal rounds {names(kit.personal_arrays())}" if kit.personal_arrays() else ""
    return names(sent) + also, "; ".join(own) or "–"


def costs(name: str, balancer: str, measured: dict[str, Any]) -> list[str]:
    """Return the measured rows of a method."""
    found = []
    for row in measured["rows"]:
        if (row["method"], row["balancer"]) == (name, balancer):
            what = f"`{row['family']}`, {row['phase']} round: {row['seconds']:.2g} s ({row['ratio']:.1f})"
            found.append(f"{what}, {row['up_kb']:,.0f} KB up, {row['down_kb']:,.0f} KB down")
    return found


def keys(options: Iterable[Option]) -> str:
    """List options with their defaults."""
    return (
        "<br>".join(f"`{one.key} = {to_toml(one.default)}`: {one.meaning}".replace("|", "\\|") for one in options)
        or "–"
    )


def card(one: Method | Balancer, key: str, doc: str, rows: dict[str, str], reading: str) -> str:
    """Return a card."""
    summary, paragraphs, references = sections(doc)
    facts = {"source": references, **rows, "keys": keys(one.options), "ours": reading or "as published"}
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    body = "\n\n".join(as_markdown(paragraph) for paragraph in paragraphs if paragraph)
    return f'## {one.title}: `{key} = "{one.name}"`\n\n{summary}\n\n{body}\n\n| | |\n|---|---|\n{table}\n'


def method_card(method: Method, measured: dict[str, Any]) -> str:
    """Return the card of a method."""
    algorithm = method.load()
    shared, private = parts(method)
    rows = {"goes with": names(families(method)), "sent": shared, "private": private}
    if found := costs(method.name, "none", measured):
        rows["a visit"] = "<br>".join(found)
    doc = import_module(f"fedpurel_app.algorithms.{method.name.replace('-', '_')}").__doc__ or ""
    return card(method, "algorithm", doc, rows, algorithm.reading)


def balancer_card(balancer: Balancer, measured: dict[str, Any]) -> str:
    """Return the card of a balancer."""
    module = import_module(f"fedpurel_app.algorithms.balancers.{balancer.name.replace('-', '_')}")
    rows = {"goes on": "any method that trains" if balancer.in_training else "any method"}
    if found := costs("fedavg", balancer.name, measured):
        rows["a visit, on FedAvg"] = "<br>".join(found)
    return card(balancer, "balancer", module.__doc__ or "", rows, getattr(module, "READING", ""))


def variant_card(variant: Variant, package: str = "fedpurel_app.algorithms.beyond") -> str:
    """Return the card of a variant of FedPuReL, or of a family."""
    module = import_module(f"{package}.{variant.name.replace('-', '_')}")
    summary, paragraphs, references = sections(module.__doc__ or "")
    body = "\n\n".join(as_markdown(paragraph) for paragraph in paragraphs if paragraph)
    table = f"| source | {references} |\n| keys | {keys(variant.options)} |"
    if reading := getattr(module, "READING", ""):
        table += f"\n| ours | {reading} |"
    return f"## {variant.title}: `{variant.setting}`\n\n{summary}\n\n{body}\n\n| | |\n|---|---|\n{table}\n"


def page() -> str:
    """Return the whole page."""
    measured = json.loads(COSTS.read_text("utf-8"))
    cards = [method_card(method, measured) for method in METHODS.values()]
    cards += [balancer_card(balancer, measured) for name, balancer in BALANCERS.items() if name != "none"]
    cards += [variant_card(variant) for variant in VARIANTS]
    cards += [variant_card(variant, "fedpurel_app.algorithms") for variant in OF_FAMILIES]
    return "\n".join([_HEAD.format(**measured), *cards])


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
