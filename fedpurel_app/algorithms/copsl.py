"""CoPSL in a federation: one private model per site with a knob, from its own mix of classes to all classes alike.

    phi_k(p) = phi_k0 + B_k h(p) / sqrt(r),   p on the simplex: (own, all[, keep])                                  (1)
    l(p) = l_G + l_P(p),   l_P(p) = f(x; phi_k(p)) - p_all log pi_k,   pi_k = (n_kc + 1/2) / (n_k + C/2)            (2)
    F(o) = (1 - lambda) CE(y, l + o) + lambda CE(y, l_P + o)                                                        (3)
    l_own = F(0),   l_all = F(log pi_k),   l_keep = KL(softmax(l_G) || softmax(l))                                  (4)
    linear: sum_i p_i l_i;   tchebycheff: max_i ((l_i - z_i) / p_i) / sum_j (1 / p_j) + 0.01 sum_i l_i              (5)

Global rounds are FedPuReL's. In personal ones every batch draws p ~ Dirichlet(1), and phi_k0, B_k and h are trained;
the sites' h are averaged, phi_k0 and B_k never leave. With B_k = 0 the knob is logit adjustment after training. The
steps are those of :mod:`.pareto`.

References
----------
C. Shang, R. Ye, J. Jiang, F. Gu, "Collaborative Pareto Set Learning in Multiple Multi-Objective Optimization Problems",
IJCNN 2024, arXiv 2404.01224: h stands for its shared layers. Kin in federations: PraFFL, arXiv 2404.08973.
"""

from __future__ import annotations

from fedpurel_app.algorithms.pareto import with_knob
from fedpurel_app.models.peft.knobs import Perceptron

ALGORITHM = with_knob(
    lambda options, generator: Perceptron(options["preferences"], options["pareto-rank"], generator),
    reading=(
        "CoPSL learns the fronts of several given problems at one place. That sites are its problems, the losses, a "
        "basis of low rank at each site, the shift by log pi_k, SGD in the place of Adam, one preference a step in the "
        "place of 30, and the divisor of the Tchebycheff form are ours: it is in the manner of CoPSL."
    ),
)
