"""Why a method cannot work with a family, data, or an aggregation: reasons for :class:`..registry.Method`.

Each goes from all settings of a run to the reason, or to "" where there is none.
"""

from __future__ import annotations

from fedpurel_app.core.options import Settings
from fedpurel_app.models.peft.registry import FAMILIES, one_tensor


def fits(settings: Settings) -> str:
    """Refuse nothing."""
    return ""


def leaves_text(settings: Settings) -> str:
    """Refuse families that leave the text features as they are."""
    family = FAMILIES[settings["peft"]]
    if "text" in family.changed(settings):
        return ""
    tower = f', {family.tower_option} = "{settings[family.tower_option]}"' if family.tower_option else ""
    return f'it works on the text features, which peft = "{settings["peft"]}"{tower} does not change'


def changes_images(settings: Settings) -> str:
    """Refuse families that change more than the text features: a mixture sees images through one of two modules."""
    if FAMILIES[settings["peft"]].changed(settings) > {"text"}:
        return (
            'it works on text features alone, and lora-tower = "both" changes the images, too; set lora-tower = "text"'
        )
    return leaves_text(settings)


def sees_no_patches(settings: Settings) -> str:
    """Refuse families that change more than the text features, and data without images."""
    if settings["dataset"] == "features":
        return 'it works on features of patches, and dataset = "features" has those of whole images; use images'
    return changes_images(settings)


def remembers_places(settings: Settings) -> str:
    """Refuse tokens that move: what is remembered of them is of the blocks where they were."""
    if settings["prompt-relocation"] == "none":
        return ""
    return (
        'it remembers parameters of earlier rounds, and prompt-relocation = "'
        f'{settings["prompt-relocation"]}" moves them to other blocks; set prompt-relocation = "none"'
    )


def controls_steps(settings: Settings) -> str:
    """Refuse what hides single replies, and tokens that move."""
    return remembers_places(settings) or hides_replies(settings)


def trains_no_matrix(settings: Settings) -> str:
    """Refuse families that train more, or less, than one matrix of text features."""
    if why := changes_images(settings):
        return why
    if not FAMILIES[settings["peft"]].matrix:
        return f'it adapts one matrix, and peft = "{settings["peft"]}" trains something else'
    several = settings["class-specific-context"]
    return "it adapts one context for all classes; set class-specific-context = false" if several else ""


def draws_images(settings: Settings) -> str:
    """Refuse image features that are not the same in every visit."""
    if settings["augment"] != "none":
        return (
            f'it remembers image features, and augment = "{settings["augment"]}" draws them anew; set augment = "none"'
        )
    return changes_images(settings)


def leaves_images(settings: Settings) -> str:
    """Refuse families that leave the image features as they are, or change the text features, too."""
    family = FAMILIES[settings["peft"]]
    if family.changed(settings) == {"vision"}:
        return ""
    tower = f', {family.tower_option} = "{settings[family.tower_option]}"' if family.tower_option else ""
    return f'its heads need image features that are trained, and no text: not peft = "{settings["peft"]}"{tower}'


def trades_matrices(settings: Settings) -> str:
    """Refuse more, or less, than one matrix, and what hides single replies."""
    return trains_no_matrix(settings) or hides_replies(settings)


def shares_class_contexts(settings: Settings) -> str:
    """Refuse families without a context for each class, sites that tell no counts, and what hides single replies."""
    if "class-specific-context" not in FAMILIES[settings["peft"]].keys:
        return f'it has prompts of the classes, and peft = "{settings["peft"]}" has none; set peft = "prompt"'
    if settings["class-specific-context"]:
        return "it has a context of all classes and one of each already; set class-specific-context = false"
    if settings["dataset"] == "sites" and settings["share-class-counts"] is not True:
        return "it clusters sites by their class counts, which they do not tell; set share-class-counts = true"
    return hides_replies(settings)


def trains_one_tensor(settings: Settings) -> str:
    """Refuse families that have nothing to divide."""
    return f"it divides the parameters, and of {one_tensor(settings)}" if one_tensor(settings) else ""


def hides_prior(settings: Settings) -> str:
    """Refuse a prior that nobody knows, where that of the site would do."""
    if settings["class-prior"] == "local" or not hides_counts(settings):
        return ""
    return f'{hides_counts(settings)}; set class-prior = "local"'


def hides_counts(settings: Settings) -> str:
    """Refuse data whose class counts nobody knows."""
    return "sites with data of their own tell nobody their class counts" if settings["dataset"] == "sites" else ""


def shares_no_factor(settings: Settings) -> str:
    """Refuse families without low-rank factors, and what clips: the first update of A is 0."""
    if "shares" not in FAMILIES[settings["peft"]].keys:
        return f'it shares the factor A of LoRA, and peft = "{settings["peft"]}" has none'
    if settings["privacy"] != "none" or settings["aggregation"] == "norm-clipping":
        return (
            'B is zero at first, hence the first update of A, by which Flower divides; set privacy = "none" and '
            'another aggregation than "norm-clipping"'
        )
    return ""


def hides_nothing(settings: Settings) -> str:
    """Refuse noise where nothing is trained."""
    return "" if settings["privacy"] == "none" else 'it trains nothing that could be covered; set privacy = "none"'


def hides_replies(settings: Settings) -> str:
    """Refuse what hides single replies, or bounds what one can do: a part at the server reads each of them."""
    if settings["privacy"] == "none" and settings["aggregation"] == "mean":
        return ""
    return (
        "its part at the server goes by every single reply, which neither noise nor a robust aggregation covers; set "
        'privacy = "none" and aggregation = "mean"'
    )


def trades_a_knob(settings: Settings) -> str:
    """Refuse balancers, what clips, and noise: personal rounds send the knob, and that was not made for it."""
    if settings["balancer"] != "none":
        return 'its second loss counts all classes alike, and a balancer would do so again; set balancer = "none"'
    if settings["privacy"] != "none" or settings["aggregation"] == "norm-clipping":
        return (
            "the knob, which sites send in personal rounds, has updates of zero at first, by which Flower divides, and "
            'no noise covers them; set privacy = "none" and another aggregation than "norm-clipping"'
        )
    return ""


def turns_nothing(settings: Settings) -> str:
    """Return why there is no knob that could see other sites; "" where there is."""
    return "" if settings["pareto-rank"] else "pareto-rank = 0"


def makes_fingerprints(settings: Settings) -> bool:
    """Tell whether the server makes sites' embeddings of how their models predict on public probes."""
    return settings.get("task-embedding") == "fingerprint" and not turns_nothing(settings)


def attends_to_sites(settings: Settings) -> str:
    """Refuse what a knob cannot go with, what hides single replies, and fingerprints of what nobody sees."""
    if why := trades_a_knob(settings) or hides_replies(settings):
        return why
    if not makes_fingerprints(settings):
        return ""
    learned = 'or task-embedding = "learned"'
    if settings["shares"] == "lora-a":
        return (
            'with shares = "lora-a" sites keep a part of the model that fingerprints are of; set shares = "all", '
            f"{learned}"
        )
    if settings["compression"] == "sketch":
        return (
            'its fingerprints are of single replies, of which compression = "sketch" leaves a coarse estimate; set '
            f'compression = "none" or "top-k", {learned}'
        )
    if settings["global-rounds"] == 0:
        return f"its fingerprints are made in global rounds, and global-rounds = 0; set more, {learned}"
    return ""
