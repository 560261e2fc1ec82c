"""FedPuReL for Flower: balanced federated fine-tuning of vision-language models, with private residual branches.

>>> import fedpurel_app
>>> run = fedpurel_app.run({"global-rounds": 5})  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["FedPuReL", "Run", "__version__", "load_trained", "run"]
_WHERE = {
    "run": "fedpurel_app.api",
    "Run": "fedpurel_app.api",
    "load_trained": "fedpurel_app.inference.trained",
    "FedPuReL": "fedpurel_app.strategies",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first asked for: the strategy needs no torch, and the mathematics no Flower."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
