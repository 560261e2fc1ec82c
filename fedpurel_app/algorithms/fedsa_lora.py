"""FedSA-LoRA: of a low-rank update A is averaged, B stays with each site.

    W_k = W + alpha / sqrt(r) B_k A,   A shared, B_k of the site's own; both trained on its cross-entropy

``shares = "lora-a"`` puts it on any method of LoRA; this one is FedAvg with it. There is no global model: A alone, with
B = 0, is zero-shot CLIP.

References
----------
P. Guo, S. Zeng, Y. Wang, H. Fan, F. Wang, L. Qu, "Selective Aggregation for Low-Rank Adaptation in Federated Learning",
ICLR 2025: A learns what sites have in common, B what is their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from fedpurel_app.algorithms import fedavg
from fedpurel_app.algorithms.base import Algorithm, Options
from fedpurel_app.core.phase import Phase


def share_a(host: Algorithm) -> Algorithm:
    """Return a method that is its host, but of what that would send sends A alone."""
    if Phase.GLOBAL not in host.visits:
        return host
    visit = host.visits[Phase.GLOBAL]

    def all_a(names: Sequence[str], options: Options) -> set[str]:
        sent = names if visit.sends is None else visit.sends(names, options)
        return {name for name in sent if name.endswith(".A")}

    return replace(host, visits={**host.visits, Phase.GLOBAL: replace(visit, sends=all_a)})


SHARES: Mapping[str, Callable[[Algorithm], Algorithm]] = {"all": lambda host: host, "lora-a": share_a}
ALGORITHM = share_a(fedavg.ALGORITHM)
