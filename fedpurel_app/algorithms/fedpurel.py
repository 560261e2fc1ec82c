"""FedPuReL: purify what sites share, then let each learn a residual of its own.

Notation: l = logits of the model that is trained, through its parameters phi; z = logits of frozen zero-shot CLIP; y =
labels; softmax over C classes; means over the B images of a batch. Equation numbers are those of this file.

**Global rounds.** Every sample gets two temperatures that bring student and teacher to one entropy::

    (1)  H* = (H(softmax l) + H(softmax z)) / 2,   H(softmax(l / tau_f)) = H(softmax(z / tau_z)) = H*
    (2)  L_task = CE(l, y),   L_align = mean KL(softmax(z / tau_z) || softmax(l / tau_f))
    (3)  g_task = dL_task / dphi,   g_align = dL_align / dphi,   without gradients through tau and H*
    (4)  g = g_task - min(0, <g_task, g_align>) / ||g_align||^2 g_align

The step is taken along g; weight decay and momentum come after. The server averages phi over the cohort, by numbers of
images:

    (5)  phi_g <- sum_k n_k phi_g^k / sum_k n_k

**Personal rounds.** phi_g is frozen; site k trains a branch phi_k that never leaves it, as a residual of the logits::

    (6)  l_G = f(x; phi_g),   l_P = f(x; phi_k),   prediction l_G + l_P
    (7)  L = (1 - lambda) CE(y, l_G + l_P) + lambda CE(y, l_P),   gradient through phi_k alone

**Schedule.** ``two-phase`` (the paper): all global rounds, then all personal ones. ``interleaved`` (the released code):
every cohort trains phi, and after the average its phi_k.

References
----------
FedPuReL: "Fine-Tuning Impairs the Balancedness of Foundation Models in Long-tailed Personalized Federated Learning",
CVPR 2026, arXiv 2605.02247.

Examples
--------
Two sites of two images and two classes, whose logits are the parameters themselves: one row of ``phi`` for each image.
Site 0 has learnt nothing yet that zero-shot CLIP did not know; at site 1 the labels oppose CLIP.

>>> import torch
>>> from fedpurel_app.algorithms.base import Batch, Facts
>>> from fedpurel_app.algorithms.registry import METHODS
>>> z = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
>>> def visit(phi, labels, rule, reference):
...     phi = torch.nn.Parameter(phi.clone())
...     batch = Batch(phi, torch.tensor(labels), 1.0 * phi, reference, None, [phi], [phi.detach()], Facts(),
...                   METHODS["fedpurel"].defaults(), 1.0, torch.Generator())
...     (gradient,), metrics = rule(batch)
...     return phi.detach() - gradient, metrics
>>> start = torch.tensor([[1.0, 0.5], [-1.0, 0.5]])
>>> first, with_clip = visit(start, [0, 1], global_step, z)
>>> second, against_clip = visit(start, [1, 1], global_step, z)
>>> float(with_clip["conflict"]), float(against_clip["conflict"])
(0.0, 0.0)
>>> phi_g = (2 * first + 2 * second) / 4
>>> phi_k, _ = visit(phi_g, [1, 1], residual_step, phi_g)
>>> bool(((phi_g + phi_k).softmax(1)[:, 1] > phi_g.softmax(1)[:, 1]).all())
True
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fedpurel_app.algorithms.base import Algorithm, Batch, Held, Memory, Metrics, Model, Models, Visit
from fedpurel_app.algorithms.beyond.ensemble import beside_zero_shot
from fedpurel_app.algorithms.beyond.projection import projected
from fedpurel_app.algorithms.beyond.site_choice import as_chosen, choose
from fedpurel_app.algorithms.fedavg import task_step
from fedpurel_app.core.phase import Phase
from fedpurel_app.functional import (
    align,
    alignment_gradient,
    kl_gradient,
    kl_loss,
)
from fedpurel_app.functional.alignment import batch_mean, kl_divergence
from fedpurel_app.functional.temperature import as_float


class Guide(NamedTuple):
    """A loss towards zero-shot CLIP, and its gradient at the student's logits.

    Attributes
    ----------
    gradient : Tensor, shape (B, C)
        Of the batch mean.
    loss : Tensor, shape ()
        [nats]
    tkl : Tensor or None, shape ()
        Mean TKL metric of the batch, where it comes for nothing: the divergence the other way round.
    """

    gradient: Tensor
    loss: Tensor
    tkl: Tensor | None = None


def aligned_kl(batch: Batch) -> Guide:
    """Return L_align of Eq. (2) and its gradient, at temperatures found anew for every sample."""
    pair = align(batch.logits, batch.reference)  # Eq. (1)
    loss = pair.weight * kl_divergence(pair.teacher_log_probs, pair.student_log_probs)  # Eq. (2)
    tkl = pair.weight * kl_divergence(pair.student_log_probs, pair.teacher_log_probs)
    return Guide(alignment_gradient(pair, batch.options["align-gradient"]), batch_mean(loss), batch_mean(tkl))


def plain_kl(batch: Batch) -> Guide:
    """Return KL(softmax z || softmax l) of the logits as they are, and its gradient."""
    return Guide(kl_gradient(batch.logits, batch.reference), kl_loss(batch.logits, batch.reference))


def purified(batch: Batch, guide: Guide) -> tuple[list[Tensor], Metrics]:
    """Return the task gradient without what opposes a guide's, from one forward pass and two ways back."""
    gradient, loss = batch.task()
    found = projected(batch, gradient, guide.gradient)
    metrics = {"loss": loss, "align-loss": guide.loss}
    if guide.tkl is not None:
        metrics["tkl"] = guide.tkl
    metrics |= {"conflict": found.conflict, "angle": torch.rad2deg(torch.acos(found.cosine))}
    return found.gradients, metrics


def global_step(batch: Batch) -> tuple[list[Tensor], Metrics]:
    """Return the purified gradient of a global round; with ``align-loss = "none"``, an ablation, the task's."""
    if batch.options["align-loss"] == "none":
        return task_step(batch)
    return purified(batch, plain_kl(batch) if batch.options["align-loss"] == "kl" else aligned_kl(batch))


def residual_step(batch: Batch) -> tuple[list[Tensor], Metrics]:
    """Return the gradient of Eq. (7); the batch's reference is l_G, its logits are l_P."""
    weight, private = batch.options["private-weight"], as_float(batch.logits)
    gradient, loss = batch.task((1 - weight, private + as_float(batch.reference)), (weight, private))
    return batch.pull_back(gradient), {"loss": loss}


def residual(models: Models) -> Model:
    """Predict by l_G + l_P, Eq. (6)."""
    private = () if models.private is None else (models.private,)
    return as_chosen(models, beside_zero_shot(models), private)


def chosen(held: Held) -> Memory:
    """Return what a site remembers of its choice among the ways to add both up."""
    return choose(held, beside_zero_shot(held.models))


ALGORITHM = Algorithm(
    visits={Phase.GLOBAL: Visit(global_step), Phase.PERSONAL: Visit(residual_step, reference="global")},
    global_model=beside_zero_shot,
    personalized=residual,
    choose=chosen,
    reading=(
        "The paper's text was not to be had in full: what it leaves open is as its released code has it, but for "
        "momentum, which begins anew at every visit, and steps without a conflict on rounding noise."
    ),
)
