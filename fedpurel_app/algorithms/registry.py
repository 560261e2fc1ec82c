"""The methods: names, papers, options and facts. Their mathematics are imported when one is used.

A new method is one file in this folder, with a value ``ALGORITHM``, and one entry here.
"""

from __future__ import annotations

from typing import Literal

from fedpurel_app.algorithms.beyond.registry import (
    PRIVATE_SCALE,
    SCHEDULE,
    SITE_TEMPERATURE,
    STRENGTH,
    TARGET,
    ZERO_SHOT_WEIGHT,
)
from fedpurel_app.algorithms.edges import CLUSTERS, EDGES, runs_apart
from fedpurel_app.algorithms.knob import KNOB, TASK_EMBEDDING
from fedpurel_app.algorithms.method import Method
from fedpurel_app.algorithms.unfit import (
    attends_to_sites,
    changes_images,
    controls_steps,
    draws_images,
    hides_nothing,
    leaves_images,
    leaves_text,
    remembers_places,
    sees_no_patches,
    shares_class_contexts,
    shares_no_factor,
    trades_a_knob,
    trades_matrices,
    trains_no_matrix,
    trains_one_tensor,
)
from fedpurel_app.core.options import (
    Count,
    Few,
    Fraction,
    NotNegative,
    Option,
    Part,
    Positive,
    Settings,
    Share,
    ZeroToOne,
    unless,
)
from fedpurel_app.models.peft.registry import one_tensor


def _projects_nothing(settings: Settings) -> str:
    alike = "" if settings["projection-scope"] == "class-group" else one_tensor(settings)
    return alike or unless("align-loss", "tkl", "kl")(settings)


_PROJECTION = (
    Option(
        "projection-scope",
        "global",
        Literal["global", "tensor", "class-group"],
        "one inner product over all parameters (paper) | one per tensor (reference) | one per group of classes",
        idle=_projects_nothing,
    ),
    STRENGTH,
    SCHEDULE,
    TARGET,
)

_ALIGNMENT = (
    *_PROJECTION,
    Option(
        "align-loss",
        "tkl",
        Literal["tkl", "kl", "none"],
        "purify with the temperature-aligned KL | the plain one (reference adapter) | do not purify",
    ),
    Option(
        "align-gradient",
        "frozen",
        Literal["frozen", "implicit"],
        "gradient of the aligned KL: at constant temperatures | without its radial part",
        idle=unless("align-loss", "tkl"),
    ),
)
_PRIVATE_WEIGHT = Option(
    "private-weight", 0.9, Share, "lambda, weight of the private branch's own loss, [0, 1]", personal=True
)

_ALL = (
    Method(
        "fedpurel",
        "FedPuReL",
        "FedPuReL, CVPR 2026, arXiv 2605.02247",
        options=(
            *_ALIGNMENT,
            _PRIVATE_WEIGHT,
            ZERO_SHOT_WEIGHT,
            PRIVATE_SCALE,
            SITE_TEMPERATURE,
        ),
        personal_rounds=True,
        personalizes=True,
    ),
    Method("zero-shot", "Zero-shot CLIP", "Radford et al., ICML 2021", unfit=hides_nothing, trains=False),
    Method(
        "fedavg",
        "FedAvg",
        "McMahan et al., AISTATS 2017; with peft = prompt it is PromptFL, with peft = adapter FedCLIP's form",
    ),
    Method(
        "fedavg-kl",
        "FedAvg + KL",
        "cross-entropy + mu KL(zero-shot || student)",
        options=(Option("penalty-weight", 1.0, NotNegative, "mu, weight of the KL"),),
    ),
    Method(
        "prograd",
        "ProGrad",
        "Zhu et al., ICCV 2023: projection with the plain KL; FedPuReL's phase 1 without temperature alignment",
        options=_PROJECTION,
    ),
    Method(
        "fedprox",
        "FedProx",
        "Li et al., MLSys 2020",
        options=(Option("proximal-weight", 0.01, NotNegative, "mu, weight of ||w - w received||^2 / 2"),),
    ),
    Method(
        "moon",
        "MOON",
        "Li et al., CVPR 2021",
        options=(
            Option("moon-weight", 1.0, NotNegative, "mu, weight of the contrast of models"),
            Option("moon-temperature", 0.5, Positive, "tau, of the contrast, > 0"),
        ),
        unfit=remembers_places,
    ),
    Method(
        "scaffold",
        "SCAFFOLD",
        "Karimireddy et al., ICML 2020",
        unfit=controls_steps,
        part="scaffold",
    ),
    Method(
        "ditto",
        "Ditto",
        "Li et al., ICML 2021",
        options=(Option("ditto-weight", 1.0, NotNegative, "lambda, weight of ||v - w||^2 / 2", personal=True),),
        personal_rounds=True,
        personalizes=True,
    ),
    Method(
        "promptfolio",
        "PromptFolio",
        "Pan et al., NeurIPS 2024",
        options=(Option("mixing-weight", 0.4, Share, "theta, share of the site's own text features, [0, 1]"),),
        personalizes=True,
        unfit=changes_images,
    ),
    Method(
        "fedotp",
        "FedOTP",
        "Li et al., CVPR 2024",
        options=(
            Option("transport-mass", 0.8, Fraction, "gamma, part of the patches' mass that reaches prompts, (0, 1]"),
            Option("transport-epsilon", 0.1, Positive, "epsilon, weight of the plan's entropy, > 0"),
        ),
        personalizes=True,
        unfit=sees_no_patches,
    ),
    Method(
        "fedpgp",
        "FedPGP",
        "Cui et al., ICML 2024",
        options=(
            Option("adaptation-rank", 8, Count, "b, rank of what every site adds to the shared matrix"),
            Option("contrast-weight", 0.5, NotNegative, "mu, weight of InfoNCE"),
        ),
        personalizes=True,
        unfit=trains_no_matrix,
    ),
    Method(
        "fedsa-lora",
        "FedSA-LoRA",
        "Guo et al., ICLR 2025; shares = lora-a puts it on other methods",
        unfit=shares_no_factor,
        keeps_global=True,
    ),
    Method(
        "pfedprompt",
        "pFedPrompt",
        "Guo et al., WWW 2023",
        options=(
            Option("memory-weight", 1.0, NotNegative, "alpha, weight of the site's remembered images"),
            Option("memory-sharpness", 5.5, NotNegative, "beta, of exp(-beta (1 - cosine))"),
        ),
        personalizes=True,
        unfit=draws_images,
    ),
    Method(
        "pfedmoap",
        "pFedMoAP",
        "Luo et al., ICLR 2025",
        options=(
            Option("experts", 10, Few, "K, prompts that are mixed, with the site's own, 1..64"),
            Option("gate-learning-rate", 0.01, Positive, "SGD, the gate"),
            Option(
                "local-weight", 0.5, Share, "lambda, weight of the own prompt's logits beside the mixture's, [0, 1]"
            ),
        ),
        personalizes=True,
        unfit=trades_matrices,
        part="nearest",
    ),
    Method(
        "fedloge",
        "FedLoGe",
        "Xiao et al., ICLR 2024",
        options=(Option("frame-sparsity", 0.6, ZeroToOne, "share of the fixed frame's numbers that are zero, [0, 1)"),),
        personalizes=True,
        unfit=leaves_images,
    ),
    Method(
        "capt",
        "CAPT",
        "arXiv 2503.06993, 2025",
        options=(CLUSTERS,),
        personalizes=True,
        unfit=shares_class_contexts,
        part="clusters",
        needs_counts=True,
    ),
    Method(
        "copsl",
        "CoPSL (our reading)",
        "in the manner of CoPSL, Shang et al., IJCNN 2024",
        options=(*_ALIGNMENT, _PRIVATE_WEIGHT, *KNOB),
        personal_rounds=True,
        personalizes=True,
        unfit=trades_a_knob,
        sends_privately=True,
    ),
    Method(
        "coaction",
        "CoAction (our reading)",
        "in the manner of CoAction, arXiv 2605.01712, ICIC 2026",
        options=(*_ALIGNMENT, _PRIVATE_WEIGHT, *KNOB, TASK_EMBEDDING),
        personal_rounds=True,
        personalizes=True,
        unfit=attends_to_sites,
        sends_privately=True,
    ),
    Method(
        "kgcoop",
        "KgCoOp",
        "Yao et al., CVPR 2023",
        options=(Option("text-weight", 8.0, NotNegative, "weight of 1 - cos of text features and zero-shot's"),),
        unfit=leaves_text,
    ),
    Method(
        "fedper",
        "FedPer",
        "Arivazhagan et al., 2019, arXiv 1912.00818",
        options=(Option("personal-share", 0.5, Part, "share of the tensors, from the output, that stay, (0, 1)"),),
        unfit=trains_one_tensor,
        keeps_global=True,
    ),
    Method(
        "elsa",
        "FedAvg in the manner of ELSA",
        "ELSA, arXiv 2601.13824, 2026; our reading",
        options=EDGES,
        personalizes=True,
        unfit=runs_apart,
        trusts=True,
    ),
)
METHODS = {method.name: method for method in _ALL}


def trusts(settings: Settings) -> bool:
    """Tell whether a run weighs replies by how their models predict; not, where nothing is said of it."""
    given = settings.get("trust", "none")
    return given == "predictions" or (given == "auto" and METHODS[settings["algorithm"]].trusts)
