"""The examples of CONTRIBUTING.md are whole: they run as they stand there."""

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from fedpurel_app.algorithms import Algorithm, Options, Regulariser
from fedpurel_app.models.peft.base import Branch, Family, Host, parameters_of

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text("utf-8")


def examples():
    found = {"Algorithm": Algorithm, "Options": Options, "Regulariser": Regulariser, "Family": Family, "Host": Host}
    found |= {"torch": torch, "nn": nn, "Tensor": Tensor, "Branch": Branch}
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(block, found)
    return found


def test_the_algorithms_gradient_is_that_of_its_loss():
    algorithm = examples()["LOGIT_DISTANCE"]
    student, zero_shot = torch.randn(5, 7, requires_grad=True), torch.randn(5, 7)
    result = algorithm.regulariser(student, zero_shot, Options())
    (expected,) = torch.autograd.grad(result.loss, student)
    torch.testing.assert_close(result.gradient, expected)


def test_the_family_starts_at_zero_shot_and_trains():
    text = nn.functional.normalize(torch.randn(7, 4), dim=-1)
    host = Host(text, 10.0, tuple("abcdefg"), None)
    module = examples()["FAMILY"].build(host, "global", {}, torch.Generator())
    features = torch.randn(5, 4)
    torch.testing.assert_close(module.logits(features), host.zero_shot_logits(features))
    module.logits(features).sum().backward()
    assert set(parameters_of(module)) == {"ratio"} and module.ratio.grad.abs().sum() > 0


def test_each_recipe_fits_in_sixty_lines():
    for recipe in TEXT.split("\n## ")[1:]:
        assert len(recipe.splitlines()) <= 60
