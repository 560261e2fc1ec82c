"""Federated fine-tuning methods. A new one is one value here, in a file of its own if it brings code."""

from fedpurel_app.algorithms.base import Algorithm, Options, Regulariser
from fedpurel_app.algorithms.regularisers import plain_kl, temperature_aligned_kl
from fedpurel_app.algorithms.sharing import SHARES

FEDPUREL = Algorithm(
    name="fedpurel",
    title="FedPuReL",
    paper="FedPuReL, CVPR 2026, arXiv 2605.02247",
    regulariser=temperature_aligned_kl,
    gradient_rule="purify",
    personalization="residual",
)
FEDAVG = Algorithm(
    name="fedavg",
    title="FedAvg",
    paper="McMahan et al., AISTATS 2017; with peft = prompt it is PromptFL, with peft = adapter FedCLIP's form",
)
FEDAVG_KL = Algorithm(
    name="fedavg-kl",
    title="FedAvg + KL",
    paper="cross-entropy + mu KL(zero-shot || student)",
    regulariser=plain_kl,
)
PROGRAD = Algorithm(
    name="prograd",
    title="ProGrad",
    paper="Zhu et al., ICCV 2023: projection with the plain KL; FedPuReL's phase 1 without temperature alignment",
    regulariser=plain_kl,
    gradient_rule="purify",
)
ALGORITHMS = {algorithm.name: algorithm for algorithm in (FEDPUREL, FEDAVG, FEDAVG_KL, PROGRAD)}

__all__ = ["ALGORITHMS", "SHARES", "Algorithm", "Options", "Regulariser"]
