"""ELSA's federation: FedAvg's visits, trust in replies by their behaviour, and clusters of sites that run apart.

    phi_c <- sum_k n_k tau_k phi_k / sum_k n_k tau_k   over the cohort's sites k of cluster c, which site k of it gets
             for E - 1 of E rounds;
    phi <- sum_c (N_c / N) phi_c   which is the mean of all replies, and what all sites get every E-th round

n_k images are at site k, tau_k is the trust in its reply, N_c = sum of n_k tau_k over c, N of all. Clusters are
found by average linkage of what visits do to the logits on public probes, and cut anew every few rounds; or an
administrator names every site's edge. A site predicts by the last phi_c that it was sent, and by phi before there was
one.

References
----------
ELSA, arXiv 2601.13824, 2026.
"""

from __future__ import annotations

from dataclasses import replace

from fedpurel_app.algorithms.base import Algorithm, Begun, Model, Models, Options, Visit, nothing, under
from fedpurel_app.algorithms.fedavg import task_step
from fedpurel_app.core.phase import Phase
from fedpurel_app.core.records import APART
from fedpurel_app.models.peft.base import parameters_of

_CLUSTER = "cluster/"  # remembered: phi_c, by name


def remember(begun: Begun) -> None:
    """Remember the parameters that came, where the server says that they are those of the site's cluster."""
    if APART in begun.facts.brief:
        begun.memory |= {_CLUSTER + name: value.clone() for name, value in parameters_of(begun.module).items()}


def of_the_cluster(models: Models) -> Model:
    """Predict by the remembered phi_c, where there is one."""
    own = under(models.memory, _CLUSTER)
    return (models.shared,) if not own or models.at is None else (models.at(own),)


def meeting(algorithm: Algorithm, options: Options) -> Algorithm:
    """Return a method whose clusters, if it has any, never run apart: then sites have nothing to keep."""
    return replace(algorithm, memory=None) if options.get("edge-rounds") == 1 else algorithm


ALGORITHM = Algorithm(
    visits={Phase.GLOBAL: Visit(task_step, begin=remember)},
    personalized=of_the_cluster,
    memory=nothing,
    memory_is_sent=True,
    reading=(
        "Our reading, in the manner of ELSA: of the paper a description was at hand. The probes, the formula of trust, "
        'the distance of clusters (the published one is kept, as cluster-distance = "gaussian", on logits), when they '
        "are cut, and that edges are logical, all at one server, are ours. The split into three parts is left out, and "
        'the sketch is compression = "sketch", which needs trust = "none" and edge-rounds = 1.'
    ),
)
