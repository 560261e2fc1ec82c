"""Idleness of learned tokens: how fast the task loss would fall if a token faded. The server moves tokens by it.

    I_k,i = mean over the steps of a visit to site k of <dL_task / dp_i, p_i>,   p_i the token i, shape (width,)
    I_i = sum_k n_k I_k,i / sum_k n_k,   i* = argmax_i I_i,   theta_b ~ Beta(1 + S_b, 1 + F_b)
    if I_i* > 0:   p_i* <- p_i* / 1000, and it enters before block argmax_b theta_b from then on
    S_b <- S_b + 1 if the loss fell by at least I_i* in the next round, else F_b <- F_b + 1, for the block it went to

With p_i multiplied by a gate g, I is dL_task / dg at g = 1: positive where the token does harm. L_task is the task loss
alone, before a method makes something else of its gradient, which exists already: a dot product per token is all. The
server moves one token at a time, between global rounds: :mod:`fedpurel_app.strategies.parts.relocation`.

References
----------
C. Shang, M. Li, Y. Zhang, Z. Chen, J. Wu, F. Gu, Y. Lu, Y.-M. Cheung, "PRO-VPT: Distribution-Adaptive Visual Prompt
Tuning via Prompt Relocation", ICCV 2025, arXiv 2503.06901.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from fedpurel_app.algorithms.base import Algorithm, Batch, Metrics, Rule
from fedpurel_app.core.layout import IDLENESS
from fedpurel_app.core.phase import Phase

READING = (
    "The paper trains in one place. What is ours: the server moves tokens between the rounds of a federation; idleness "
    "is taken along in the steps of a visit, where the paper spends a pass on it; losses are compared over the sites "
    "of two successive rounds. Blocks are chosen by Thompson sampling, which the released code offers beside the "
    "paper's PPO. A token that would go where it is stays as it is and is not judged; none moves after the last round."
)
_TOKENS = "tokens"  # what the parameter is called, in a composed module after a dot


def idleness(batch: Batch) -> Tensor:
    """Return <dL_task / dp_i, p_i> of every token, shape (P,); raise ValueError where there are none."""
    names = [name for name, _ in batch.module.named_parameters()]
    for name, value, gradient in zip(names, batch.trained, batch.task_gradients, strict=True):
        if name.rpartition(".")[2] == _TOKENS:
            return (gradient * value.detach()).sum(1)
    raise ValueError(f"this module has no {_TOKENS}, but {', '.join(names)}")


def _telling(rule: Rule) -> Rule:
    def told(batch: Batch) -> tuple[list[Tensor], Metrics]:
        gradients, metrics = rule(batch)
        return gradients, {**metrics, IDLENESS: idleness(batch)}

    return told


def tell_idleness(host: Algorithm) -> Algorithm:
    """Return a method that is its host, but in global rounds reports the idleness of tokens, too."""
    if Phase.GLOBAL not in host.visits:
        return host
    visit = host.visits[Phase.GLOBAL]
    return replace(host, visits={**host.visits, Phase.GLOBAL: replace(visit, rule=_telling(visit.rule))})


def _as_it_is(host: Algorithm) -> Algorithm:
    return host


# By ``prompt-relocation``: a move at random asks for no scores.
RELOCATION: Mapping[str, Callable[[Algorithm], Algorithm]] = {
    "none": _as_it_is,
    "random": _as_it_is,
    "bandit": tell_idleness,
}
