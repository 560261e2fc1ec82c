"""The global model beside zero-shot CLIP: what it predicts is the weighted mean of both models' logits.

    l_G' = (1 - w) l_G + w z,   and with it Eq. (6) and (7) of FedPuReL: prediction l_G' + l_P

What fine-tuning forgot, CLIP still knows: where the two disagree, the surer one has its way. Global rounds are those of
FedPuReL to the bit; in personal rounds the residual is trained beside l_G', beside which it will predict.

References
----------
The mean of weights that M. Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022 (WiSE-FT) compare with
one of outputs; of logits here, for phi is no change of CLIP's weights in every family.
"""

from __future__ import annotations

from fedpurel_app.algorithms.models import Model, Models
from fedpurel_app.models.peft.scaled import scaled


def beside_zero_shot(models: Models) -> Model:
    """Return the global model: l_G, or both parts of l_G'."""
    weight: float = models.options.get("zero-shot-weight", 0.0)
    if not weight or models.zero_shot is None:
        return (models.shared,)
    return scaled(models.shared, 1 - weight), scaled(models.zero_shot, weight)
