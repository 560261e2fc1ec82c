"""The parameter-efficient families: names, options and facts. Their modules are imported when one is made (making.py).

A new family is one file in this folder, with a function ``build``, and one entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field

from fedpurel_app.core.layout import HOME
from fedpurel_app.core.options import Count, Number, Option, Positive, Settings, unless

Needs = Literal["features", "text tower", "image tower"]
Tower = Literal["vision", "text"]


def no_part(settings: Settings) -> str:
    """Return that the parameters stay as they are laid out."""
    return ""


def _relocation(settings: Settings) -> str:
    return "" if settings["prompt-relocation"] == "none" else "relocation"


@dataclass(frozen=True)
class Family:
    """A family of modules as data.

    Attributes
    ----------
    name : str
        Value of the run-config key ``peft``. The file beside this one has the same name, with underscores.
    paper : str
    needs : {"features", "text tower", "image tower"}
        What the module runs on beyond image and text features: nothing, or one of the towers.
    changes : {"vision", "text"}
        Whose features the module changes; where ``tower_option`` is set, that key says it.
    learning_rate, private_learning_rate : float
        What "auto" means for the shared and for the private parameters.
    options : tuple of Option
        The keys that it owns.
    tower_option : str
        Key among its options that says which towers are adapted, "vision", "text" or "both".
    one_tensor : bool
        Whether all its parameters are one tensor.
    matrix : bool
        Whether they are one matrix, at the defaults of its options.
    layout : tuple of str
        What :mod:`fedpurel_app.core.layout` says of its parameters beside their values.
    part : callable
        From all settings to the file in ``strategies/parts`` that changes the layout; "" where it stays as it is.
    """

    name: str
    paper: str
    needs: Needs
    changes: Tower
    learning_rate: float
    private_learning_rate: float
    options: tuple[Option, ...] = ()
    tower_option: str = ""
    one_tensor: bool = False
    matrix: bool = False
    layout: tuple[str, ...] = ()
    part: Callable[[Settings], str] = no_part

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The keys of its options."""
        return tuple(option.key for option in self.options)

    def needs_of(self, options: Mapping[str, Any]) -> Needs:
        """Return what a site's module runs on; with ``split = "text"`` the text tower is at the server."""
        return "features" if "split" in self.keys and options["split"] == "text" else self.needs

    def private_rate(self, options: Mapping[str, Any]) -> float:
        """Return what "auto" means for the private branch; of a text split that is a text residual."""
        elsewhere = self.needs_of(options) != self.needs
        return FAMILIES["text-residual"].private_learning_rate if elsewhere else self.private_learning_rate

    def changed(self, options: Mapping[str, Any]) -> set[Tower]:
        """Return whose features, "vision" and "text", a module with these options changes."""
        if not self.tower_option:
            return {self.changes}
        chosen = options[self.tower_option]
        return {"vision", "text"} if chosen == "both" else {chosen}

    def towers(self, options: Mapping[str, Any]) -> set[Tower]:
        """Return which of the towers, "vision" and "text", a module with these options trains through."""
        return set() if self.needs_of(options) == "features" else self.changed(options)


_stay = unless("prompt-relocation", "bandit", "random")


def one_tensor(settings: Mapping[str, Any]) -> str:
    """Return why a choice among tensors has no effect: the family has one."""
    return f'peft = "{settings["peft"]}", which trains one tensor' if FAMILIES[settings["peft"]].one_tensor else ""


_ALL = (
    Family(
        name="prompt",
        paper="CoOp, Zhou et al., IJCV 2022; PromptFL, Guo et al., IEEE TMC 2023",
        needs="text tower",
        changes="text",
        learning_rate=0.1,
        private_learning_rate=0.1,
        one_tensor=True,
        matrix=True,
        options=(
            Option("context-length", 4, Annotated[int, Field(ge=1, le=64)], "context vectors, 1..64"),
            Option(
                "context-position",
                "end",
                Literal["end", "middle", "front"],
                "class name at the end | in the middle | in front of the context",
            ),
            Option("class-specific-context", False, bool, "a context for each class instead of one for all"),
            Option("context-words", "", str, "initial context, context-length tokens; empty = N(0, 0.02)"),
            Option(
                "split",
                "none",
                Literal["none", "text"],
                "where the text tower is: none = at the sites | text = at the server, one step a round (our reading of "
                "ELSA)",
            ),
        ),
    ),
    Family(
        name="adapter",
        paper="FedCLIP, Lu et al., IEEE Data Engineering Bulletin 2023",
        needs="features",
        changes="vision",
        learning_rate=0.1,
        private_learning_rate=0.1,
    ),
    Family(
        name="text-residual",
        paper="TaskRes, Yu et al., CVPR 2023",
        needs="features",
        changes="text",
        learning_rate=0.1,
        private_learning_rate=0.03,
        one_tensor=True,
        matrix=True,
        options=(Option("residual-scale", 0.5, Positive, "a in T + a R, > 0"),),
    ),
    Family(
        name="lora",
        paper="LoRA, Hu et al., ICLR 2022; rsLoRA, Kalajdzievski, 2023",
        needs="image tower",
        changes="vision",
        learning_rate=0.03,
        private_learning_rate=0.03,
        tower_option="lora-tower",
        options=(
            Option("lora-rank", 8, Count, "r of the update's factors"),
            Option("lora-alpha", 16.0, Positive, "the update's scale is alpha / sqrt(r), > 0"),
            Option(
                "lora-dropout", 0.25, Annotated[float, Field(ge=0, lt=1)], "of the update's input in training, [0, 1)"
            ),
            Option("lora-tower", "vision", Literal["vision", "text", "both"], "vision | text | both"),
            Option("lora-blocks", "all", str, 'all, or numbers and ranges of blocks as "0-5,11"'),
            Option("lora-projections", "q,k,v", str, "some of q, k, v and out"),
            Option(
                "shares",
                "all",
                Literal["all", "lora-a"],
                "what sites send and get averaged: all | lora-a = A alone, B stays with each site (FedSA-LoRA)",
            ),
        ),
    ),
    Family(
        name="visual-prompt",
        paper="VPT, Jia et al., ECCV 2022",
        needs="image tower",
        changes="vision",
        learning_rate=0.3,
        private_learning_rate=0.3,
        one_tensor=True,
        options=(
            Option("prompt-tokens", 8, Count, "learned tokens"),
            Option(
                "prompt-depth",
                "deep",
                Literal["shallow", "deep"],
                "tokens before the first block | anew before every block",
            ),
            Option(
                "prompt-relocation",
                "none",
                Literal["none", "bandit", "random"],
                "tokens move between blocks: none | bandit = where they help (PRO-VPT, our reading) | random, control",
                idle=unless("prompt-depth", "deep"),
            ),
            Option("relocate-every", 2, Count, "global rounds from move to move; 1 = PRO-VPT's pace", idle=_stay),
            Option("relocation-warmup", 1, Number, "global rounds before the first move", idle=_stay),
        ),
        layout=(HOME,),
        part=_relocation,
    ),
)
FAMILIES = {family.name: family for family in _ALL}
