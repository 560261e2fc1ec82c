"""How many messages a server needs to learn a site's numbers by class, under each of the site's own rules.

The table in docs/security.md states these numbers.
"""

from typing import Any

import numpy as np
import pytest

from tests.attacks.conftest import CLASSES, feature_site, initial
from tests.attacks.server import Server, metrics

TRAIN, TEST = [23, 11, 7, 4], [13, 9, 5, 3]


def constant(label):
    """Craft parameters of a classifier that calls every image of :func:`feature_site` one class."""
    residual = np.full((CLASSES, 8), -1e4, np.float32)
    residual[label] = 1e4
    return {"residual": residual}


def attack(site, ask, read):
    """Ask with a constant classifier for each class but the last; returns what was learnt of each, and the messages."""
    learnt = []
    for label in range(CLASSES - 1):
        reply = ask(constant(label), label + 1)
        if reply.has_error() or (found := read(metrics(reply))) is None:
            return None, label + 1
        learnt.append(found)
    return learnt, CLASSES - 1


def hits(told):
    return told.get("global/correct")


@pytest.fixture
def make(tmp_path):
    def site(changes=None, **node):
        config, own = feature_site(tmp_path, **{key.replace("_", "-"): value for key, value in node.items()})
        server = Server({**config, **(changes or {})}, own)
        assert list(initial(server)) == ["residual"]
        return server

    return site


def test_totals_tell_test_counts_after_as_many_messages_as_there_are_other_classes(make):
    learnt, messages = attack(site := make(), site.evaluate, hits)
    total = metrics(site.evaluate(constant(0), 9))["global/total"]
    assert [*learnt, total - sum(learnt)] == TEST and messages == CLASSES - 1


def test_lists_by_class_tell_them_at_once_where_both_sides_agree(make):
    site = make({"share-class-counts": True})
    assert metrics(site.evaluate(constant(0), 1))["global/total"] == TEST
    refusals: list[dict[str, Any]] = [{"share_class_counts": False}, {"scores": "totals"}]
    for number, refusal in enumerate(refusals, 2):
        site = make({"share-class-counts": True}, **refusal)
        assert metrics(site.evaluate(constant(0), number))["global/total"] == sum(TEST)


def test_one_question_is_answered_once(make):
    site = make()
    assert not site.evaluate(constant(0), 1).has_error()
    assert site.evaluate(constant(1), 1).has_error() and site.evaluate(constant(1), 0).has_error()
    assert site.evaluate(constant(1), 2001).has_error(), "max-rounds"


@pytest.mark.parametrize("step", [5, 10])
def test_rounded_totals_tell_them_to_the_step(make, step):
    site = make(round_scores=step)
    learnt, _ = attack(site, site.evaluate, hits)
    assert all(value % step == 0 for value in learnt)
    assert all(abs(value - true) <= step / 2 for value, true in zip(learnt, TEST, strict=False))
    told = metrics(site.evaluate(constant(0), 9))
    assert told["global/total"] == told["num-examples"] == step * ((sum(TEST) + step // 2) // step)


@pytest.mark.parametrize("rule", [{"scores": "none"}, {"min_test_images": sum(TEST) + 1}])
def test_kept_scores_tell_nothing(make, rule):
    site = make(**rule)
    assert attack(site, site.evaluate, hits) == (None, 1)
    assert metrics(site.evaluate(constant(0), 5)) == {"scores-withheld": 1}


def test_a_site_with_images_enough_is_scored(make):
    site = make(min_test_images=sum(TEST))
    assert metrics(site.evaluate(constant(0), 1))["num-examples"] == sum(TEST)


LOUD = {"learning-rate": 1e-7, "weight-decay": 0.0, "momentum": 0.0, "algorithm": "fedavg", "batch-size": 45}


def test_the_mean_loss_tells_training_counts_where_metrics_leave(make):
    """Under a classifier that is sure of one class, the loss is the share of the others times one number."""
    site = make(LOUD)
    losses, messages = attack(site, site.train, lambda told: told.get("loss"))
    assert messages == CLASSES - 1
    site.config["learning-rate"] = 1e-7
    margin = losses[0] / (1 - TRAIN[0] / sum(TRAIN))  # any one of them, guessed, gives the rest
    counts = [round(sum(TRAIN) * (1 - loss / margin)) for loss in losses]
    assert np.abs(np.subtract(counts, TRAIN[:-1])).max() <= 2


def test_no_metrics_leave_where_the_site_sends_its_number_alone(make):
    site = make(LOUD, metrics="count")
    assert attack(site, site.train, lambda told: told.get("loss")) == (None, 1)
    assert metrics(site.train(constant(0), 5)) == {"num-examples": sum(TRAIN)}


def test_what_stays_open_one_update_tells_the_training_counts(make):
    """Nothing but noise hides it. With one text feature u for all classes every image is as likely any class, so the
    step of class c, in a direction v across u, is k (sum of v·x over its own images - sum over all / C)."""
    site = make({**LOUD, "learning-rate": 1.0}, metrics="count")
    start = np.zeros((CLASSES, 8), np.float32)
    start[:, 0] = 1000.0  # u = (1, 0, ..., 0); v = (0, 1, ..., 1)
    reply = site.train({"residual": start}, 1)
    step = (reply.content["arrays"]["residual"].numpy() - start)[:, 1:].sum(1).astype(float)
    least = step.min()  # of the rarest class, whose own share is small
    shares = (step - least) / (step - least).sum()
    assert np.corrcoef(step, TRAIN)[0, 1] > 0.99
    assert np.abs(shares - (np.array(TRAIN) - 4) / (sum(TRAIN) - 4 * CLASSES)).max() < 0.1
