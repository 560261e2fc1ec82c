"""Every site chooses, on the images that it keeps for validation, how much its branch says and how sure both are.

    prediction (l_G + s_k l_P) / tau_k
    (s_k, tau_k) = arg min over s in {0, 1/4, 1/2, 3/4, 1}, tau in {1/2, 1/sqrt 2, 1, sqrt 2, 2} of the mean CE

A site whose branch overfits its few images can do without it: with s_k = 0 it has the global model. tau_k changes no
prediction, only confidence. Both are chosen after every personal visit and kept with the private branch; neither leaves
the site. Of equals, those nearest to the paper, s = tau = 1, are chosen; so are they without images to choose on.
``site-temperature`` alone leaves s_k = 1, ``private-scale`` alone tau_k = 1.

References
----------
tau: C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On Calibration of Modern Neural Networks", ICML 2017. s_k is ours.
"""

from __future__ import annotations

import itertools

import torch

from fedpurel_app.algorithms.models import Held, Model, Models
from fedpurel_app.algorithms.step import Memory, Options
from fedpurel_app.functional import cross_entropy
from fedpurel_app.models.peft.scaled import scaled

SCALES = (1.0, 0.75, 0.5, 0.25, 0.0)  # what comes first is chosen of equals
TEMPERATURES = (1.0, 2.0**-0.5, 2.0**0.5, 0.5, 2.0)
SCALE, TEMPERATURE = "private-scale", "site-temperature"  # in the memory, and keys


def candidates(options: Options) -> list[tuple[float, float]]:
    """List the pairs (s, tau) to choose from; one where nothing is chosen."""
    return list(
        itertools.product(
            SCALES if options[SCALE] == "validation" else SCALES[:1],
            TEMPERATURES if options[TEMPERATURE] == "validation" else TEMPERATURES[:1],
        )
    )


def choose(held: Held, shared: Model) -> Memory:
    """Return s_k and tau_k as they are remembered; nothing where there is nothing to choose.

    Parameters
    ----------
    held : Held
    shared : tuple of PeftModule
        The global model.
    """
    pairs = candidates(held.models.options)
    if len(pairs) == 1 or held.models.private is None:
        return {}
    common, private = held.logits(shared), held.logits((held.models.private,))
    bias = 0 if held.bias is None else held.bias
    losses = [cross_entropy((common + scale * private) / tau + bias, held.labels) for scale, tau in pairs]
    best = torch.tensor(pairs, device=common.device)[torch.stack(losses).argmin()]
    return {SCALE: best[0], TEMPERATURE: best[1]}


def as_chosen(models: Models, shared: Model, private: Model) -> Model:
    """Return the personalized model as the site has chosen it; that of the paper where it has not."""
    if SCALE not in models.memory:
        return (*shared, *private)
    scale, tau = (float(models.memory[name]) for name in (SCALE, TEMPERATURE))
    own = private if scale else ()
    return (*(scaled(one, 1 / tau) for one in shared), *(scaled(one, scale / tau) for one in own))
