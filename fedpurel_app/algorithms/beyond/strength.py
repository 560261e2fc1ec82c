"""Partial purification: more, or less, of the opposing component is taken away, by a schedule over the rounds.

    g = g_task - s_t min(0, <g_task, g_align>) / ||g_align||^2 g_align
    constant: s_t = s     rising: s_t = s p_t     falling: s_t = s (1 - p_t)     p_t: share of the rounds that are done

s = 1, constant, is the paper. Below 1 a part of what opposes CLIP is learnt: the head, which has the images to know
better than CLIP, keeps more of its accuracy. Above 1 every step with a conflict also goes back towards CLIP.
<g, g_align> >= 0 holds from s = 1 on.

References
----------
The factor is ProGrad's lambda: B. Zhu, Y. Niu, Y. Han, Y. Wu, H. Zhang, "Prompt-aligned Gradient for Prompt Tuning",
ICCV 2023. Its schedule, and its use with the aligned KL in a federation, are ours.
"""

from __future__ import annotations

from fedpurel_app.algorithms.base import Options


def strength(options: Options, progress: float) -> float:
    """Return s_t.

    Parameters
    ----------
    options : mapping
    progress : float
        p_t, in [0, 1).
    """
    share = {"constant": 1.0, "rising": progress, "falling": 1.0 - progress}[options["projection-schedule"]]
    full: float = options["projection-strength"]
    return full * share
