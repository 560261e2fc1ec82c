import torch
from torch import nn

from fedpurel_app.models.peft import Host
from fedpurel_app.training import evaluation
from fedpurel_app.training.evaluation import evaluate


class Fixed(nn.Module):
    """Gives the logits that it was made with, whatever the images."""

    def __init__(self, logits):
        super().__init__()
        self.values = logits

    def class_features(self):
        return torch.zeros(3, 2)

    def logits(self, inputs, class_features=None):
        return self.values[inputs[:, 0].long()]


HOST = Host(torch.eye(3)[:, :2] + 0.1, 1.0, ("a", "b", "c"), None)
INPUTS = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0], [3.0, 1.0]])
LABELS = torch.tensor([0, 1, 2, 2])
GLOBAL = torch.tensor([[2.0, 0, 0], [0, 0, 1.0], [0, 0, 1.0], [1.0, 0, 0]])
PRIVATE = torch.tensor([[0.0, 3.0, 0], [0, 2.0, 0], [0, 0, 0], [0, 0, 0]])


def test_the_personalized_model_is_the_sum_of_both_branches():
    scores = evaluate(HOST, Fixed(GLOBAL), INPUTS, LABELS, Fixed(PRIVATE))
    assert scores.global_model.correct.tolist() == [1, 0, 1] and scores.global_model.total.tolist() == [1, 1, 2]
    assert scores.personalized.correct.tolist() == [0, 1, 1]


def test_without_a_private_branch_there_is_no_personalized_score():
    assert evaluate(HOST, Fixed(GLOBAL), INPUTS, LABELS).personalized is None


def test_chunks_do_not_matter(monkeypatch):
    whole = evaluate(HOST, Fixed(GLOBAL), INPUTS, LABELS, Fixed(PRIVATE))
    monkeypatch.setattr(evaluation, "_CHUNK", 3)
    parts = evaluate(HOST, Fixed(GLOBAL), INPUTS, LABELS, Fixed(PRIVATE))
    assert whole.personalized.correct.tolist() == parts.personalized.correct.tolist()
    assert abs(whole.tkl - parts.tkl) < 1e-6


def test_tkl_is_zero_for_the_zero_shot_model_itself():
    class ZeroShot(Fixed):
        def logits(self, inputs, class_features=None):
            return 5 * HOST.zero_shot_logits(inputs)

    assert evaluate(HOST, ZeroShot(GLOBAL), INPUTS, LABELS).tkl < 1e-5
    assert evaluate(HOST, Fixed(GLOBAL), INPUTS, LABELS).tkl > 0.01
