"""The form of a sweep's ``plan.json``, key by key; further keys are nobody's business here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedpurel_app.reporting.run_schemas import Count

Text = Annotated[str, Field(min_length=1, max_length=1000)]
Value = bool | int | float | str
Folder = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]  # beneath the sweep's own


class _Plain(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Placed(_Plain):
    method: Text
    at: dict[str, Value]


class Cell(_Placed):
    """A method with a seed at a place of the grid, and the run that shows it; several cells may name one run."""

    seed: Count
    run: Folder


class LeftOut(_Placed):
    """What the sweep does not run."""

    why: str


class Chosen(_Plain):
    """Settings that tuning chose for each method, and by what rule."""

    rule: str
    keys: list[Text]


class Plan(_Plain):
    """``plan.json``."""

    title: str = ""
    command: str = ""
    against: str = ""
    methods: Annotated[list[Text], Field(min_length=1)]
    axes: dict[str, Annotated[list[Value], Field(min_length=1)]]
    cells: Annotated[list[Cell], Field(min_length=1)]
    left_out: list[LeftOut] = []
    tuned: Chosen | None = None

    @model_validator(mode="after")
    def _agrees(self) -> Plan:
        if len(set(self.methods)) < len(self.methods):
            raise ValueError("names a method twice")
        if self.against and self.against not in self.methods:
            raise ValueError(f'is against "{self.against}", which is none of its methods')
        for one in [*self.cells, *self.left_out]:
            if one.method not in self.methods:
                raise ValueError(f'has a cell of "{one.method}", which is none of its methods')
            self._check_place(one.at)
        if len({(cell.method, cell.seed, self.place(cell.at)) for cell in self.cells}) < len(self.cells):
            raise ValueError("has two cells of one method, place and seed")
        return self

    def _check_place(self, at: Mapping[str, Value]) -> None:
        if set(at) != set(self.axes):
            raise ValueError(f"has a cell at {', '.join(at) or 'nothing'}; its axes are {', '.join(self.axes)}")
        for key, value in at.items():
            if value not in self.axes[key]:
                raise ValueError(f"has a cell at {key} = {value}, which is not on that axis")

    def place(self, at: Mapping[str, Value]) -> tuple[int, ...]:
        """Return where a cell stands on each axis, in the axes' order."""
        return tuple(values.index(at[key]) for key, values in self.axes.items())
