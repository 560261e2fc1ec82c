"""What the lines of a run folder's tables may hold: they are read from folders that others may have written."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Cell = Annotated[str, Field(pattern=r"^(-?[0-9]{1,12}(\.[0-9]{1,12})?)?$")]
Whole = Annotated[str, Field(pattern=r"^[0-9]{1,12}$")]
Positive = Annotated[str, Field(pattern=r"^0{0,11}[1-9][0-9]{0,11}$")]
Percent = Annotated[str, Field(pattern=r"^(100|[0-9]{1,2})(\.[0-9]{1,12})?$")]


class _Row(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class SiteRow(_Row):
    """A line of ``sites.csv``."""

    site: str
    gain: Cell
    has_private_branch: str
    test_images: Whole = "0"
    zero_shot: Cell = ""
    global_: Cell = Field("", alias="global")
    personalized: Cell = ""
    global_gain: Cell = ""
    global_low: Cell = ""
    global_high: Cell = ""
    personalized_low: Cell = ""
    personalized_high: Cell = ""
    gain_low: Cell = ""
    gain_high: Cell = ""
    global_gain_low: Cell = ""
    global_gain_high: Cell = ""
    global_ece: Cell = ""
    global_nll: Cell = ""
    personalized_ece: Cell = ""
    personalized_nll: Cell = ""


class ClassRow(_Row):
    """A line of ``classes.csv``."""

    label: Whole
    name: str
    group: str
    train_images: Whole | Literal[""]
    zero_shot: Cell
    global_: Cell = Field(alias="global")
    personalized_at_sites: Cell


class FrontRow(_Row):
    """A line of ``fronts.csv``."""

    site: str
    curve: Literal["pareto", "logit-adjustment", "dial"]
    at: Annotated[str, Field(pattern=r"^[0-9.;e-]{1,60}$")]
    own_accuracy: Percent
    all_accuracy: Percent | Literal[""]
    all_of: Literal["server", "own classes", ""]
    agreement: Percent
    nondominated: Literal["0", "1", ""]


class CalibrationRow(_Row):
    """A line of ``calibration.csv``."""

    model: Literal["zero_shot", "global", "global_at_sites", "personalized"]
    group: Literal["all", "many", "medium", "few"]
    confidence_from: Percent
    confidence_to: Percent
    images: Positive
    correct: Whole
    mean_confidence: Percent

    @model_validator(mode="after")
    def _is_a_bin(self) -> CalibrationRow:
        if int(self.correct) > int(self.images):
            raise ValueError("more images right than there are")
        return self
