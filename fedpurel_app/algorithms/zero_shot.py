"""Zero-shot CLIP: nobody trains; all sites score the frozen model once.

    z = s f T^t,   T the text features of the data set's template                                             (Sec. 3.1)

References
----------
A. Radford, J. W. Kim, C. Hallacy, A. Ramesh, G. Goh, S. Agarwal, G. Sastry, A. Askell, P. Mishkin, J. Clark, G.
Krueger, I. Sutskever, "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021.
"""

from __future__ import annotations

import torch

from fedpurel_app.algorithms.base import Algorithm, Maker, Options
from fedpurel_app.models.peft.base import PeftModule


def frozen(build: Maker, options: Options, generator: torch.Generator) -> PeftModule:
    """Make a module without parameters, whose logits are z."""
    return build("zero-shot")


ALGORITHM = Algorithm(visits={}, compose=frozen)
