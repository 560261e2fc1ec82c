"""In which precision the frozen towers compute."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch

Precision = Literal["fp32", "bf16", "fp16-autocast"]
_AUTOCAST = {"bf16": torch.bfloat16, "fp16-autocast": torch.float16}


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Return the context of a tower's matrix products; what comes of them is to be made fp32 again."""
    dtype = _AUTOCAST.get(precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)
