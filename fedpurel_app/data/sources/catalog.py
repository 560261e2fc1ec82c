"""The data sets by name. A new one is one entry here, and a loader where no existing one fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fedpurel_app.data.shapes.rendered import load_shapes
from fedpurel_app.data.sources.feature_file import load_features
from fedpurel_app.data.sources.folders import load_imagefolder
from fedpurel_app.data.sources.hub import HubData, without_wordnet_id
from fedpurel_app.data.sources.manifest import form_of, load_manifest
from fedpurel_app.data.sources.published import ListedData, load_aircraft
from fedpurel_app.data.sources.source import Source
from fedpurel_app.data.sources.subsets import on_validation


@dataclass(frozen=True)
class Entry:
    """What the catalogue knows of a data set.

    Attributes
    ----------
    load : callable
        From ``dataset-path`` ("" where none is set) and ``max-per-class`` to a :class:`Source`.
    group_by : {"counts", "terciles"}
        What ``group-by = "auto"`` means.
    """

    load: Callable[[str, int], Source]
    group_by: Literal["counts", "terciles"] = "counts"


CIFAR10 = HubData("CIFAR-10", "uoft-cs/cifar10", image="img")
CIFAR100 = HubData("CIFAR-100", "uoft-cs/cifar100", image="img", label="fine_label", superclass="coarse_label")
FOOD101 = HubData("Food-101", "ethz/food101", test="validation", template="a type of food, a photo of {}.")
DTD = HubData("DTD", "tanganke/dtd", template="a photo of a {} pattern.")
DOGS = HubData("Stanford Dogs", "maurice-fp/stanford-dogs", class_name=without_wordnet_id)
PETS = HubData("Oxford-IIIT Pets", "timm/oxford-iiit-pet", template="a type of pet, a photo of a {}.")
IMAGENET_LT = ListedData("ImageNet-LT", "ImageNet_LT_train.txt", "ImageNet_LT_test.txt", 115_846, False)
PLACES_LT = ListedData("Places-LT", "Places_LT_train.txt", "Places_LT_test.txt", 62_500, True)

DATASETS: Mapping[str, Entry] = {
    "shapes": Entry(load_shapes, "terciles"),
    "features": Entry(load_features, "terciles"),
    "imagefolder": Entry(load_imagefolder),
    "manifest": Entry(load_manifest),
    "cifar10": Entry(CIFAR10.load),
    "cifar100": Entry(CIFAR100.load),
    "imagenet-lt": Entry(IMAGENET_LT.load),
    "places-lt": Entry(PLACES_LT.load),
    "food101": Entry(FOOD101.load),
    "dtd": Entry(DTD.load),
    "aircraft": Entry(load_aircraft),
    "stanford-dogs": Entry(DOGS.load),
    "oxford-pets": Entry(PETS.load),
}


def load_source(settings: Mapping[str, Any]) -> Source:
    """Load a data set as settings ask for it.

    Parameters
    ----------
    settings : mapping
        Of a run, by key: ``dataset``, a name of ``DATASETS``; where it lies and how it is read; and with
        ``evaluate-on`` which data are where the test data are, see
        :func:`~fedpurel_app.data.sources.subsets.on_validation`.

    Raises
    ------
    DataError
        When it is not there, or cannot be used.
    """
    name, path = settings["dataset"], settings["dataset-path"]
    if name == "manifest":
        source = load_manifest(path, form=form_of(settings))
    else:
        source = DATASETS[name].load(path, settings["max-per-class"])
    return on_validation(source) if settings["evaluate-on"] == "validation" else source
