"""Settings of the optimiser."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class SgdSettings:
    """Plain SGD.

    Attributes
    ----------
    learning_rate : float
    momentum, weight_decay : float
        Both act on what the method's rule returns. Momentum starts at zero at every visit.
    batch_size : int
    epochs : int
        Passes over the client's data per visit.
    fixed_steps : int
        Steps per visit, whatever the number of images: as many passes as they take, the last one cut short. 0 = by
        epochs.
    drop_last : bool
        Drop the last partial batch of a pass when there is a full one.
    """

    learning_rate: float
    momentum: float
    weight_decay: float
    batch_size: int
    epochs: int
    fixed_steps: int = 0
    drop_last: bool = True

    def usable(self, count: int) -> int:
        """Return how many of a number of images a pass sees.

        Examples
        --------
        >>> [SgdSettings(0.1, 0.0, 0.0, 32, 1).usable(count) for count in (5, 32, 40)]
        [5, 32, 32]
        >>> SgdSettings(0.1, 0.0, 0.0, 32, 1, drop_last=False).usable(40)
        40
        """
        return count - count % self.batch_size or count if self.drop_last else count

    def steps(self, count: int) -> int:
        """Return how many steps a visit takes on a number of images, of which there is at least one.

        Examples
        --------
        >>> [SgdSettings(0.1, 0.0, 0.0, 32, 2).steps(count) for count in (5, 32, 40, 64)]
        [2, 2, 2, 4]
        >>> SgdSettings(0.1, 0.0, 0.0, 32, 2, drop_last=False).steps(40)
        4
        >>> SgdSettings(0.1, 0.0, 0.0, 32, 1, fixed_steps=7).steps(40)
        7
        """
        return self.fixed_steps or self.epochs * math.ceil(self.usable(count) / self.batch_size)

    def travel(self, steps: int) -> float:
        """Return the way that some steps of a constant gradient of 1 go: r K, and more with momentum m.

        Examples
        --------
        >>> SgdSettings(0.1, 0.0, 0.0, 32, 1).travel(3) == 0.1 + 0.1 + 0.1
        True
        >>> SgdSettings(1.0, 0.5, 0.0, 32, 1).travel(3)  # 1, then 1 + 1/2, then 1 + 1/2 + 1/4
        4.25
        """
        velocity, way = 0.0, 0.0
        for _ in range(steps):
            velocity = self.momentum * velocity + 1
            way += self.learning_rate * velocity
        return way
