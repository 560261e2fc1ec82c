"""What a server sends beside the shared parameters for a method's sake: whatever it is, no harm is done."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.attacks.conftest import feature_site, initial
from tests.attacks.server import Server, metrics, told

C = np.full((4, 8), 0.1, np.float32)
BRIEFS = {
    "none": None,
    "of other names": {"other": C},
    "of no dimension": {"residual": np.float32(1)},
    "wider": {"residual": np.zeros((4, 9), np.float32)},
    "NaN": {"residual": C * np.float32("nan")},
    "huge": {"residual": C * np.float32(1e38)},
    "text": {"residual": np.array(["x"])},
    "whole numbers": {"residual": np.ones((4, 8), np.int64)},
}


@pytest.fixture
def site(tmp_path):
    config, node = feature_site(tmp_path)
    return Server({**config, "algorithm": "scaffold"}, {**node, "metrics": "full"})


def remembered(tmp_path):
    files = sorted(tmp_path.rglob("private-*.safetensors"))
    return [load_file(file)["memory/residual"] for file in files]


@pytest.mark.parametrize("name", BRIEFS)
def test_a_crafted_brief_costs_a_reply_at_most(site, tmp_path, name):
    arrays = initial(site)
    reply = site.train(arrays, 1, brief=BRIEFS[name])
    if reply.has_error():
        assert reply.error.reason.endswith("at the site; its own log says more")
    else:
        assert metrics(reply).keys() == {"num-examples"}, "training metrics would tell of what the site keeps"
    assert all(np.isfinite(value).all() for value in remembered(tmp_path))
    written = [1] if remembered(tmp_path) else [0]
    assert not site.train(arrays, 2, written[0], brief={"residual": C}).has_error(), "the honest server is served"


def test_the_same_question_with_another_brief_is_another_question(site):
    arrays = initial(site)
    first = told(site.train(arrays, 1, brief={"residual": C}))
    assert "error" not in first
    assert "error" in told(site.train(arrays, 1, brief={"residual": 2 * C}))


def test_a_method_without_personal_rounds_has_none(site, tmp_path):
    assert site.personalize(initial(site), 1, 0, brief={"residual": C}).has_error() and not remembered(tmp_path)
