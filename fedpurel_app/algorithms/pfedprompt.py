"""pFedPrompt: a prompt that all sites share, and at each site a memory of its own images that has a say in predictions.

    L = CE(s f T^t, y)   of the shared prompt alone
    personalized:   l + alpha sum_i exp(-beta (1 - f . F_i)) onehot(y_i),   F_i, y_i the site's own training images

Features and labels never leave the site; its private file holds them.

References
----------
T. Guo, S. Guo, J. Wang, "pFedPrompt: Learning Personalized Prompt for Vision-Language Models in Federated Learning",
WWW 2023.
"""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from fedpurel_app.algorithms.base import Algorithm, Begun, Model, Models, Visit, nothing
from fedpurel_app.algorithms.fedavg import task_step
from fedpurel_app.core.phase import Phase
from fedpurel_app.models.peft.key_value import KeyValueMemory


def remember(begun: Begun) -> None:
    """Put the site's image features into its memory."""
    if begun.inputs is None or begun.facts.zero_shot_text is None:
        raise ValueError("pfedprompt remembers image features, which are not at hand here.")
    begun.memory["keys"] = normalize(begun.inputs, dim=-1)
    begun.memory["labels"] = begun.labels.clone()
    begun.memory["classes"] = torch.tensor(len(begun.facts.zero_shot_text), device=begun.labels.device)


def remembering(models: Models) -> Model:
    """Predict by the shared prompt and what is remembered; by the prompt where nothing is."""
    if "keys" not in models.memory:
        return (models.shared,)
    memory, classes = models.memory, int(models.memory["classes"])
    weight, sharpness = models.options["memory-weight"], models.options["memory-sharpness"]
    return (models.shared, KeyValueMemory(memory["keys"], memory["labels"], classes, weight, sharpness))


ALGORITHM = Algorithm(
    visits={Phase.GLOBAL: Visit(task_step, begin=remember)},
    personalized=remembering,
    memory=nothing,
    reading=(
        "There is no public code: the attention over local features has the form that Tip-Adapter (Zhang et al., ECCV "
        "2022) gives such a memory, with its alpha = 1 and beta = 5.5."
    ),
)
