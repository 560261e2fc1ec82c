"""Settings of the optimiser."""

from __future__ import annotations

from dataclasses import dataclass


def steps_of_a_visit(count: int, batch_size: int, epochs: int) -> int:
    """Return how many steps a visit to a number of images takes: a last partial batch counts where it is the only one.

    Examples
    --------
    >>> [steps_of_a_visit(count, 32, 2) for count in (5, 32, 40, 64)]
    [2, 2, 2, 4]
    """
    return epochs * max(1, count // batch_size)


@dataclass(frozen=True)
class SgdSettings:
    """Plain SGD.

    Attributes
    ----------
    learning_rate : float
    momentum, weight_decay : float
        Both act on what the method's rule returns. Momentum starts at zero at every visit.
    batch_size : int
        The last partial batch is dropped when there is a full one.
    epochs : int
        Passes over the client's data per visit.
    """

    learning_rate: float
    momentum: float
    weight_decay: float
    batch_size: int
    epochs: int

    def usable(self, count: int) -> int:
        """Return how many of a number of images a pass sees: a last partial batch is dropped when there is a full one.

        Examples
        --------
        >>> [SgdSettings(0.1, 0.0, 0.0, 32, 1).usable(count) for count in (5, 32, 40)]
        [5, 32, 32]
        """
        return count - count % self.batch_size or count

    def steps(self, count: int) -> int:
        """Return how many steps a visit takes on a number of images."""
        return steps_of_a_visit(count, self.batch_size, self.epochs)

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
