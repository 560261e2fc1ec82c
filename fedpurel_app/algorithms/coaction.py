"""CoAction in a federation: CoPSL's private model with a knob, which here attends to the tasks of all sites.

    t_j = W_p p + e_j,   j = 1..K;   o_k = token k of one pre-norm transformer encoder layer over t_1..t_K           (1)
    h_k(p) = W_o o_k,   phi_k(p) = phi_k0 + B_k h_k(p) / sqrt(r)                                                     (2)
    fingerprint: e_k = unit(P mean_t u_kt),   u_kt = unit(l(phi_kt) - l(phi_t)) on public probes,   P random         (3)

The losses, the steps and the shift by log pi_k are those of :mod:`.copsl`. W_p, the encoder and W_o are trained in
personal rounds, and averaged; phi_k0 and B_k never leave. The server makes e_k of what global rounds send anyway, (3);
with task-embedding = "learned" it is a parameter of site k, which sends it. A site gets the embeddings of all others as
constants: gradients reach its own one alone.

References
----------
"CoAction", arXiv 2605.01712, ICIC 2026: a distinct embedding for each task, and self-attention among tasks in a
transformer encoder. C. Shang, R. Ye, J. Jiang, F. Gu, IJCNN 2024, arXiv 2404.01224.
"""

from __future__ import annotations

from typing import cast

import torch

from fedpurel_app.algorithms.base import Begun, Options, Visited
from fedpurel_app.algorithms.pareto import count_classes, with_knob
from fedpurel_app.core.tasks import EMBEDDING, TASKS, WIDTH, unfit
from fedpurel_app.models.peft.attention import Attention
from fedpurel_app.models.peft.base import load_parameters, parameters_of
from fedpurel_app.models.peft.pareto import Pareto


def meet_tasks(begun: Begun) -> None:
    """Tell the module the tasks of all sites as the server sent them, else as seen last; raise ValueError for others.

    A learned embedding goes on from where this site left it; at a first visit, from what the server has of it.
    """
    count_classes(begun)
    module, came, last = cast(Pareto, begun.module), begun.facts.brief.get(TASKS), begun.memory.get(TASKS)
    if came is not None and (why := unfit(came.cpu().numpy())):
        raise ValueError(why)
    own = dict(module.named_parameters()).get(EMBEDDING)
    rows = last if came is None else came
    if rows is None:  # the only site that there is
        rows = module.preference.new_zeros(1, WIDTH) if own is None else own.detach()[None]
    if own is not None:
        rows = rows if last is None else torch.cat([last[:1], rows[1:]])
        load_parameters(module, {**parameters_of(module), EMBEDDING: rows[0]})
    module.tasks = begun.memory[TASKS] = rows.clone()


def keep_own(visited: Visited) -> None:
    """Remember a learned embedding in its row."""
    own = dict(zip(visited.names, visited.after, strict=True)).get(EMBEDDING)
    if own is not None:
        visited.memory[TASKS] = torch.cat([own[None], visited.memory[TASKS][1:]])


def knob(options: Options, generator: torch.Generator) -> Attention:
    """Make h."""
    learns = options["task-embedding"] == "learned"
    return Attention(options["preferences"], options["pareto-rank"], generator, learns)


ALGORITHM = with_knob(
    knob,
    reading=(
        "CoAction solves given problems at one place, with an embedding that is learned for each and self-attention "
        "among them; its sizes and losses were not to be had. That sites are its problems, all sizes (width 32, 4 "
        "heads, 64 hidden units), embeddings that are fingerprints, and what CoPSL's card says of losses, basis, shift "
        "and steps, are ours: it is in the manner of CoAction."
    ),
    begin=meet_tasks,
    end=keep_own,
)
