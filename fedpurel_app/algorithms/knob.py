"""The keys of methods whose private module has a knob."""

from __future__ import annotations

from typing import Literal

from fedpurel_app.algorithms.unfit import turns_nothing
from fedpurel_app.core.options import Few, FewOrNone, Option

KNOB = (
    Option(
        "preferences",
        2,
        Literal[2, 3],
        "losses that a preference weighs: own mix, all classes alike | and what the global model says (our reading)",
        personal=True,
    ),
    Option(
        "pareto-rank",
        8,
        FewOrNone,
        "r, directions that a preference moves a site's branch in, 0..64; 0 = it does not move (our reading)",
        personal=True,
    ),
    Option("preferences-per-step", 1, Few, "preferences drawn for every batch, 1..64", personal=True),
    Option(
        "scalarisation",
        "linear",
        Literal["linear", "tchebycheff"],
        "what a step minimises: the weighted sum of losses | the largest, over its weight",
        personal=True,
    ),
    Option(
        "preference-shift",
        True,
        bool,
        "shift logits by the site's class shares as the preference asks for, trained or not (our reading)",
        personal=True,
    ),
)

TASK_EMBEDDING = Option(
    "task-embedding",
    "fingerprint",
    Literal["fingerprint", "learned"],
    "what sites see of each other's tasks: made at the server of what it gets anyway (our reading) | trained and sent",
    idle=turns_nothing,
)
