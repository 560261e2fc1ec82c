"""Which of the global branch's parameters a site sends; the others stay with its private state.

References
----------
"lora-a": FedSA-LoRA, P. Guo et al., "Selective Aggregation for Low-Rank Adaptation in Federated Learning", ICLR 2025:
A learns what sites have in common, B what is their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

SHARES: Mapping[str, Callable[[str], bool]] = {
    "all": lambda name: True,
    "lora-a": lambda name: name.endswith(".A"),
}
