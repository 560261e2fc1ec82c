"""FedPer: the layers near the output stay with each site, those before them are shared and averaged.

    theta_k = (w shared, b_k of the site's own): both trained together on the site's loss, w alone is sent

References
----------
M. G. Arivazhagan, V. Aggarwal, A. K. Singh, S. Choudhary, "Federated Learning with Personalization Layers", 2019, arXiv
1912.00818.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedpurel_app.algorithms.base import Algorithm, Options, Visit
from fedpurel_app.algorithms.fedavg import task_step
from fedpurel_app.core.phase import Phase


def base_layers(names: Sequence[str], options: Options) -> set[str]:
    """Choose the tensors that are sent: all but the last share of them; at least one is sent, and one stays.

    Examples
    --------
    >>> sorted(base_layers(["weight1", "bias1", "weight2", "bias2"], {"personal-share": 0.5}))
    ['bias1', 'weight1']
    """
    stay = min(max(1, round(options["personal-share"] * len(names))), len(names) - 1)
    return set(names[: len(names) - stay])


ALGORITHM = Algorithm(
    visits={Phase.GLOBAL: Visit(task_step, sends=base_layers)},
    reading=(
        "The paper divides the layers of a network; here, the tensors that a family trains, in their order from input "
        "to output."
    ),
)
