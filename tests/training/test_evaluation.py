from typing import Any

import torch
from torch import nn

from fedpurel_app.models.peft.base import Host
from fedpurel_app.training import inputs
from fedpurel_app.training.evaluation import evaluate
from fedpurel_app.training.inputs import LocalData


class Fixed(nn.Module):
    """Return the logits that it was made with, whatever the images."""

    takes: Any  # what a module has besides, and nobody asks for here
    logit_scale: Any
    class_features: Any
    logits: Any
    logits_of: Any
    with_text: Any

    def __init__(self, logits):
        super().__init__()
        self.values = logits

    def frozen(self):
        return lambda inputs: self.values[inputs[:, 0].long()]


HOST = Host(torch.eye(3)[:, :2] + 0.1, 1.0, ("a", "b", "c"), None)
INPUTS = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0], [3.0, 1.0]])
LABELS = torch.tensor([0, 1, 2, 2])
DATA = LocalData(INPUTS, LABELS, HOST.zero_shot_logits(INPUTS))
GLOBAL = torch.tensor([[2.0, 0, 0], [0, 0, 1.0], [0, 0, 1.0], [1.0, 0, 0]])
MODEL = Fixed(GLOBAL)
PRIVATE = torch.tensor([[0.0, 3.0, 0], [0, 2.0, 0], [0, 0, 0], [0, 0, 0]])


def test_the_personalized_model_is_the_sum_of_both_branches():
    scores = evaluate(DATA, (MODEL,), (MODEL, Fixed(PRIVATE)))
    assert scores.counts["global"].correct.tolist() == [1, 0, 1]
    assert scores.counts["global"].total.tolist() == [1, 1, 2]
    assert scores.counts["personalized"].correct.tolist() == [0, 1, 1]


def test_without_a_private_branch_there_is_no_personalized_score():
    scores = evaluate(DATA, (Fixed(GLOBAL),))
    assert set(scores.counts) == set(scores.details) == {"zero-shot", "global"} and not scores.has_private_branch


def test_chunks_do_not_matter(monkeypatch):
    whole = evaluate(DATA, (MODEL,), (MODEL, Fixed(PRIVATE)))
    monkeypatch.setattr(inputs, "_FEATURES_AT_ONCE", 3)
    parts = evaluate(DATA, (MODEL,), (MODEL, Fixed(PRIVATE)))
    assert whole.personalized.correct.tolist() == parts.personalized.correct.tolist()
    assert abs(whole.tkl - parts.tkl) < 1e-6


def test_tkl_is_zero_for_the_zero_shot_model_itself():
    class ZeroShot(Fixed):
        def frozen(self):
            return lambda inputs: 5 * HOST.zero_shot_logits(inputs)

    assert evaluate(DATA, (ZeroShot(GLOBAL),)).tkl < 1e-5
    assert evaluate(DATA, (Fixed(GLOBAL),)).tkl > 0.01
