"""What a site tells beside counts: what of it leaves under the site's own rules, and what the server believes."""

import copy
from typing import Any

import numpy as np
import pytest
from flwr.app import MetricRecord

from fedpurel_app.core.calibration import UNIT
from fedpurel_app.strategies.screening import BadReplyError, check_scores
from tests.attacks.conftest import CLASSES, feature_site, initial
from tests.attacks.server import Server, metrics
from tests.attacks.test_private_branch import scored

BESIDE = {"bin-total", "bin-correct", "bin-confidence", "nll"}


@pytest.fixture
def answer(tmp_path):
    """Return what a site of some rules tells of its models when it has a private branch."""

    def ask(changes=None, **node):
        own = {key.replace("_", "-"): value for key, value in node.items()}
        config, settings = feature_site(tmp_path, **own)
        site = Server({**config, **(changes or {})}, settings)
        arrays = initial(site)
        assert not site.personalize(arrays, 1, 0).has_error()
        told = metrics(site.evaluate(arrays, 2, 1))
        check_scores(MetricRecord(told), "num-examples", CLASSES, 30)  # what an honest site tells is believed
        return told

    return ask


def told_of(told, model):
    return {name.partition("/")[2] for name in told if name.startswith(f"{model}/")} - {"correct", "total"}


def test_by_default_confidences_leave_of_all_but_the_personalized_model(answer):
    told = answer()
    assert told_of(told, "zero-shot") == BESIDE and told_of(told, "global") == {*BESIDE, "right-with-zero-shot"}
    assert told_of(told, "personalized") == {"right-with-global"}


def test_a_site_may_let_those_of_the_personalized_model_leave_or_keep_all(answer):
    assert told_of(answer(calibration="full"), "personalized") == {*BESIDE, "right-with-global"}
    told = answer(calibration="none")
    assert not told_of(told, "zero-shot") and told_of(told, "global") == {"right-with-zero-shot"}


def test_scores_global_keeps_all_of_the_personalized_model_whatever_calibration_says(answer):
    told = answer(scores="global", calibration="full")
    assert not any(name.startswith("personalized/") for name in told) and "global/nll" in told


def test_what_is_by_class_leaves_where_counts_by_class_do(answer):
    asked = {"share-class-counts": True}
    told = answer(asked)
    assert sum(told["global/predicted"]) == 30 and len(told["global/predicted"]) == CLASSES
    assert told_of(told, "global") == {*BESIDE, "right-with-zero-shot", "predicted"}, "own data have no known groups"
    for rule in ({"share_class_counts": False}, {"scores": "totals"}):
        told = answer(asked, **rule)
        assert not told_of(told, "global") & {"predicted", "group-confusion"} and len(told["global/bin-total"]) == 15


def test_sums_leave_in_sixteenths(answer):
    told = answer(calibration="full")
    for model in ("zero-shot", "global", "personalized"):
        assert told[f"{model}/nll"] % (UNIT // 16) == 0
        images = np.array(told[f"{model}/bin-total"])
        edges = np.arange(16) * UNIT
        cut = [int(-(-n * low // 15)) for n, low in zip(images, edges[:-1], strict=True)]
        cut += [int(n * high // 15) for n, high in zip(images, edges[1:], strict=True)]
        assert all(value % (UNIT // 16) == 0 or value in cut for value in told[f"{model}/bin-confidence"])


@pytest.mark.parametrize("step", [5, 10])
def test_rounded_scores_come_without_bins_and_with_rounded_sums(answer, step):
    told = answer({"share-class-counts": True}, round_scores=step, calibration="full")
    for model in ("zero-shot", "global", "personalized"):
        assert told_of(told, model) <= {"nll", "right-with-zero-shot", "right-with-global"}
        assert told[f"{model}/nll"] % (step * UNIT) == 0
    assert told["personalized/right-with-global"] % step == 0 == told["global/right-with-zero-shot"] % step


@pytest.mark.parametrize("rule", [{"scores": "none"}, {"min_test_images": 31}])
def test_a_site_that_keeps_its_scores_keeps_what_comes_beside_them(tmp_path, rule):
    config, node = feature_site(tmp_path, **{key.replace("_", "-"): value for key, value in rule.items()})
    site = Server(config, {**node, "calibration": "full"})
    assert metrics(site.evaluate(initial(site), 1)) == {"scores-withheld": 1}


def test_confidences_tell_nothing_of_what_a_site_keeps(twins):
    """Sites with equal data and different private parts tell the same, but for counts of right answers."""
    first, second = (metrics(reply) for reply in scored(twins, "full"))
    for name in first.keys() | second.keys():
        if name.rpartition("/")[2] in BESIDE:
            assert first[name] == second[name]
    of_the_kept = {"personalized"} | ({"global"} if twins[0] in ("lora-a", "fedper") else set())
    assert not any(told_of(first, model) & BESIDE for model in of_the_kept)


def test_what_stays_open_where_a_site_says_so_a_loss_tells_of_a_branch_what_counts_do_not(tmp_path):
    """Two hundredths more on one number of the branch changes no answer, and with ``calibration="full"`` the loss."""
    told = []
    for name, change in (("one", 0.0), ("two", 0.02)):
        config, node = feature_site(tmp_path / name, calibration="full")
        site = Server(config, node)
        arrays = initial(site)
        assert not site.personalize(arrays, 1, 0).has_error()
        (part,) = (kept := site.store().load(1))
        kept[part].flat[0] += change
        site.store().save(kept, 1, 0)
        turned = {"residual": np.full_like(arrays["residual"], 1.0)}
        turned["residual"][0] *= -1
        told.append(metrics(site.evaluate(turned, 2, 1)))
    first, second = told
    differing = {key for key in first if first[key] != second[key]}
    assert differing and differing <= {"personalized/nll", "personalized/bin-confidence"}


# --- what the server believes ---------------------------------------------------------------------------------------


def honest() -> dict[str, Any]:
    """Four images of two classes: both models are at 0.5, zero-shot right twice, the global model three times."""
    told: dict[str, Any] = {"num-examples": 4, "zero-shot/correct": [1, 1], "zero-shot/total": [2, 2]}
    told |= {"global/correct": [2, 1], "global/total": [2, 2], "global/right-with-zero-shot": 2}
    for model, right in (("zero-shot", 2), ("global", 3)):
        bins = {"total": 4, "correct": right, "confidence": 2 * UNIT}
        told |= {f"{model}/bin-{name}": [0] * 7 + [value] + [0] * 7 for name, value in bins.items()}
        told |= {f"{model}/nll": 3 * UNIT, f"{model}/predicted": [3, 1] if right == 3 else [2, 2]}
    return {**told, "global/group-confusion": [2, 0, 0, 0, 0, 0, 1, 0, 1]}


def in_bin(value, number=7):
    return [0] * number + [value] + [0] * (14 - number)


def test_what_fits_is_read():
    found = check_scores(MetricRecord(honest()), "num-examples", 2, 4)
    assert found.gain("global") == (0, 1, 4) and found.details["global"].nll == 3 * UNIT


LIES: dict[str, dict[str, Any]] = {
    "more hits than images": {"global/bin-correct": in_bin(5)},
    "hits that are not the counts": {"global/bin-correct": in_bin(2)},
    "images that are not the counts": {"global/bin-total": in_bin(5), "global/bin-confidence": in_bin(5 * UNIT // 2)},
    "more confidence than the bin has room for": {"global/bin-confidence": in_bin(3 * UNIT)},
    "less confidence than the bin has": {"global/bin-confidence": in_bin(UNIT)},
    "confidence without images": {"global/bin-confidence": [UNIT, *in_bin(2 * UNIT)[1:]]},
    "bins of another number": {f"global/bin-{name}": [4] for name in ("total", "correct", "confidence")},
    "some of the bins": {"global/bin-correct": None},
    "a number where a list belongs": {"global/bin-total": 4},
    "a negative number": {"global/bin-confidence": in_bin(-1)},
    "a number of 63 bits": {"global/bin-confidence": in_bin(2**62)},
    "images of 63 bits": {"global/bin-total": in_bin(2**62)},
    "fractions": {"global/bin-total": [float(one) for one in in_bin(4)]},
    "NaN": {"global/nll": float("nan")},
    "a loss below 0": {"global/nll": -1},
    "a loss beyond all": {"global/nll": 4 * 1000 * UNIT + 1},
    "a list of losses": {"global/nll": [1, 2]},
    "predictions that do not add up": {"global/predicted": [3, 2]},
    "a class that was less often predicted than rightly": {"global/predicted": [4, 0]},
    "predictions of other classes": {"global/predicted": [2, 1, 1]},
    "a confusion that does not add up": {"global/group-confusion": [2, 0, 0, 0, 0, 0, 1, 0, 2]},
    "a confusion of another size": {"global/group-confusion": [2, 0, 1, 1]},
    "groups left by images that are right": {"global/group-confusion": [2, 0, 0, 0, 0, 0, 2, 0, 0]},
    "more right with both than with one": {"global/right-with-zero-shot": 3},
    "fewer right with both than must be": {"global/right-with-zero-shot": 0},
    "pairs that are a list": {"global/right-with-zero-shot": [2]},
    "losses of a model without counts": {"personalized/nll": 1},
    "pairs of a model without counts": {"personalized/right-with-global": 1},
}


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_what_does_not_fit_costs_the_reply(lie):
    told = copy.deepcopy(honest()) | LIES[lie]
    with pytest.raises(BadReplyError, match="impossible scores"):
        check_scores(
            MetricRecord({key: value for key, value in told.items() if value is not None}), "num-examples", 2, 4
        )
