"""Nothing that is a function of a private branch and of something the server chose leaves a site in personal rounds."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fedpurel_app.core.records import ARRAYS
from tests.attacks.conftest import KEEPERS, feature_site, initial
from tests.attacks.server import EXPERIMENT, Server, metrics, told

Craft = Callable[[np.ndarray], np.ndarray]
ASKED: dict[str, tuple[dict[str, Any], Craft]] = {  # settings and parameters that a server may choose
    "as it should": ({}, lambda value: value),
    "zeros": ({}, np.zeros_like),
    "a unit vector": ({}, lambda value: np.eye(1, value.size, dtype=value.dtype).reshape(value.shape)),
    "large numbers": ({}, lambda value: np.full_like(value, 1e4)),
    "numbers that overflow": ({}, lambda value: np.full_like(value, 3e38)),
    "no number": ({}, lambda value: np.full_like(value, np.nan)),
    "a tiny rate": ({"private-learning-rate": 1e-38}, lambda value: value),
    "the smallest rate": ({"private-learning-rate": 1e-7}, lambda value: value),
    "a rate that makes it diverge": ({"private-learning-rate": 1e4}, lambda value: np.full_like(value, 1e4)),
    "one image a step": ({"batch-size": 1}, lambda value: value),
    "many epochs": ({"local-epochs": 3}, lambda value: value),
    "one step": ({"local-steps": 1}, lambda value: value),
    "a small last step": ({"drop-last": False, "batch-size": 44}, lambda value: value),
    "its own loss alone": ({"private-weight": 1.0}, lambda value: value),
    "the sum's loss alone": ({"private-weight": 0.0}, lambda value: value),
    "the way to the global model alone": ({"ditto-weight": 1e6}, lambda value: value),
}


def test_personal_rounds_tell_the_same_whatever_the_branch_is(twins):
    """Two sites with the same data and other branches hear the same messages, each of them twice."""
    _, one, two, arrays = twins
    left, right = one.store().load(2), two.store().load(2)
    assert all(not np.array_equal(value, right[key]) for key, value in left.items()), "the branches differ"
    first, second = all_answers(one, arrays), all_answers(two, arrays)
    assert first == second
    assert "error" not in first["as it should"] and len(first) == 2 * len(ASKED)
    # The very same message may have been lost on the way; its answer is the same, and tells nothing new.
    assert all(first[f"{what}, again"] == first[what] for what in ASKED)


def all_answers(site, arrays):
    """Ask a site all of it, from its branch of round 2 on; returns what each message was answered with."""
    answers, number, before = {}, 3, 2
    for what, (changes, craft) in ASKED.items():
        crafted = {key: craft(value) for key, value in arrays.items()}
        for again in ("", ", again"):
            answers[what + again] = told(site.personalize(crafted, number, before, changes=changes))
        if "error" not in answers[what]:
            before = number
        number += 1
    return answers


LIGHT = pytest.mark.parametrize("twins", ["text-residual", "lora-a", "ditto"], indirect=True)
# A family inside the towers takes seconds in each of these four; the test above meets it in any case.
SCORED = pytest.mark.parametrize(
    "twins", ["text-residual", pytest.param("lora-a", marks=pytest.mark.slow), "ditto", *KEEPERS], indirect=True
)


@LIGHT
def test_a_personal_reply_tells_a_number_of_images_and_nothing_else(twins):
    _, one, _, arrays = twins
    reply = one.personalize(arrays, 3, 2)
    assert metrics(reply).keys() == {"num-examples"} and ARRAYS not in reply.content


def test_the_distance_oracle_reads_nothing(tmp_path):
    """With d0 for zeros and di for the i-th unit vector, P_i = (d0^2 - di^2 + 1) / 2: so a branch was read once."""
    config, node = feature_site(tmp_path)
    site = Server(config, node)
    (name,), arrays = initial(site).keys(), initial(site)
    site.personalize(arrays, 1, 0)
    replies = []
    for round_number, index in enumerate([None, 0, 1, 2], 2):
        crafted = np.zeros_like(arrays[name])
        if index is not None:
            crafted.flat[index] = 1.0
        reply = site.personalize(
            {name: crafted}, round_number, round_number - 1, changes={"private-learning-rate": 1e-7}
        )
        replies.append(metrics(reply))
    assert all(reply == replies[0] for reply in replies)


def test_a_branch_that_diverges_is_undone_and_the_server_hears_nothing_of_it(tmp_path, caplog, monkeypatch):
    config, node = feature_site(tmp_path)
    site = Server(config, node)
    arrays = initial(site)
    site.personalize(arrays, 1, 0)

    def diverge(module, *_):
        for parameter in module.parameters():
            parameter.data.fill_(np.nan)
        return {"loss": np.nan}

    monkeypatch.setattr("fedpurel_app.site.site.train", diverge)
    with caplog.at_level("WARNING", "flwr.fedpurel.client"):
        reply = site.personalize(arrays, 2, 1)
    assert metrics(reply) == {"num-examples": 45}
    assert any("diverged" in record.getMessage() for record in caplog.records)
    before, after = site.store().load(1), site.store().load(2)
    assert all(np.array_equal(value, before[name]) for name, value in after.items())


@SCORED
def test_scores_of_a_branch_are_told_once_a_round_and_attempt(twins):
    _name, one, _two, arrays = twins
    others = {name: value + 1 for name, value in arrays.items()}
    first, same = one.evaluate(arrays, 3, 2), one.evaluate(arrays, 3, 2)
    assert told(first) == told(same) and not first.has_error()
    for reply in (one.evaluate(others, 3, 2), one.evaluate(arrays, 2, 2), one.evaluate(arrays, 3, 0)):
        assert "is scored once a round" in reply.error.reason
    assert not one.evaluate(arrays, 4, 2).has_error()
    # A resumed run is another attempt, and its sites are scored again.
    assert not one.evaluate(arrays, 3, 2, attempt=2, token="u").has_error()


def scored(twins, scores):
    """Return how both sites answer when their own settings let so much of their scores leave."""
    _, one, two, arrays = twins
    for site in (one, two):
        site.node["scores"] = scores
    return [site.evaluate(arrays, 3, 2) for site in (one, two)]


@SCORED
def test_a_site_that_keeps_its_scores_tells_nothing_of_its_branch(twins):
    first, second = map(told, scored(twins, "none"))
    assert first == second == {"metrics/scores-withheld": 1}


@SCORED
def test_a_site_may_keep_the_scores_of_what_it_keeps(twins):
    """Of models that nobody else has: the personalized one, and a global one with parts of the site's own."""
    answers = [metrics(reply) for reply in scored(twins, "global")]
    if twins[0] in ("lora-a", "fedper"):
        assert told(scored(twins, "global")[0]) == {"metrics/scores-withheld": 1}
        return
    parts = ("correct", "total", "nll", "bin-total", "bin-correct", "bin-confidence")
    models = {f"{model}/{part}" for model in ("zero-shot", "global") for part in parts}
    assert answers[0].keys() == {"num-examples", "global/right-with-zero-shot", *models}


def test_what_stays_open_scores_of_the_personalized_model_tell_of_the_branch(tmp_path):
    """One number of the branch by bisection, an evaluation for each bit.

    With two text features for all classes, turned towards each other, the personalized prediction flips where the
    branch's own difference of logits is made up for. docs/security.md states how many evaluations that takes, and what
    closes it.
    """
    config, node = feature_site(tmp_path, **{"max-evaluations": 20})
    site = Server({**config, "private-learning-rate": 1.0}, node)
    arrays = initial(site)
    site.personalize(arrays, 1, 0)
    low, high = 0.0, 1.0

    def right(share, number):
        turned = np.zeros_like(arrays["residual"])
        turned[0], turned[1:] = 100 * np.eye(8)[0], 100 * (share * np.eye(8)[0] + (1 - share) * np.eye(8)[1])
        return metrics(site.evaluate({"residual": turned.astype(np.float32)}, number, 1))["personalized/correct"]

    first = right(low, 2)
    assert first != right(high, 3), "the threshold lies between"
    for asked in range(4, 20):
        middle = (low + high) / 2
        low, high = (middle, high) if right(middle, asked) == first else (low, middle)
    assert high - low < 2.0**-15 and asked == 19
    assert [site.evaluate(arrays, number, 1).has_error() for number in (30, 31, 32)] == [False, False, True]


@SCORED
def test_metrics_of_a_global_round_over_a_private_part_are_not_told(twins):
    name, one, two, arrays = twins
    answers = [metrics(site.train(arrays, 3, 2)) for site in (one, two)]
    assert answers[0] == answers[1]
    assert (answers[0].keys() == {"num-examples"}) == (name in ("lora-a", *KEEPERS))


@pytest.mark.parametrize("twins", ["lora-a"], indirect=True)
def test_a_part_that_is_kept_does_not_leave_when_the_settings_change(twins):
    """The server names experiment, settings and parameters: it could ask for all, and leave a gap."""
    _, one, _, arrays = twins
    for number, (changes, attempt) in enumerate([({"shares": "all"}, 1), ({"shares": "all"}, 2)], 3):
        reply = one.train(arrays, number, 2, changes=changes, attempt=attempt, token="tu"[attempt - 1])
        assert reply.has_error() and "was begun here with" in reply.error.reason
    # And where the site's own book of it is gone:
    next(one_file for one_file in _state(one).rglob("attempt.json")).unlink()
    reply = one.train(arrays, 3, 2, changes={"shares": "all"})
    assert reply.has_error() and "ValueError at the site" in reply.error.reason


def _state(server):
    from pathlib import Path

    return Path(server.node["state-dir"]) / EXPERIMENT


def test_the_book_of_what_was_asked_is_closed_to_others(tmp_path):
    config, node = feature_site(tmp_path)
    site = Server(config, node)
    site.evaluate(initial(site), 1)
    (path,) = _state(site).rglob("attempt.json")
    assert path.stat().st_mode & 0o777 == 0o600 and json.loads(path.read_text())["evaluated"] == 1
