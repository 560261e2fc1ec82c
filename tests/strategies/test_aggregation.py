"""Aggregations and differential privacy as inner strategies: site k adds k to both of two numbers."""

import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp.strategy import FedAvg

from fedpurel_app.core.errors import RunError, StateError
from fedpurel_app.core.records import ARRAYS, METRICS, PRIVACY, PRIVACY_MOD, to_array_record
from fedpurel_app.strategies import Aggregation, Schedule
from fedpurel_app.strategies.inner_checks import layers
from tests.strategies.test_fedpurel import START, client, run, strategy

KINDS = ("server-fixed", "server-adaptive", "client-fixed", "client-adaptive")


@pytest.fixture
def quiet(monkeypatch):
    """Flower's noise, written down instead of drawn."""
    from flwr.serverapp.strategy import dp_adaptive_clipping, dp_fixed_clipping

    drawn = []
    for module in (dp_fixed_clipping, dp_adaptive_clipping):
        monkeypatch.setattr(module, "add_gaussian_noise_inplace", lambda arrays, sd: drawn.append(sd))
    monkeypatch.setattr(np.random, "normal", lambda mean, sd, *rest: mean)
    return drawn


def accounting(kind):
    if kind.endswith("fixed"):
        pytest.importorskip("dp_accounting")
    return kind


def made(schedule=None, **options):
    own = {key: options.pop(key) for key in list(options) if key in Aggregation.__dataclass_fields__}
    aggregation = Aggregation(**own)
    needed = aggregation.privacy if aggregation.needs_mod else ""
    return strategy(schedule, aggregation.strategy(), required_mod=needed, **options)


def honest(norm=1.0, kind="", bit=True):
    """What a client with its mod does: clip, and say so."""

    def spoil(site, instruction, content):
        if ARRAYS not in content:
            return
        update = np.full(2, site, np.float32)
        length = float(np.linalg.norm(update))
        update *= min(1.0, norm / length) if length else 1.0
        content[ARRAYS] = to_array_record({"w": START["w"] + update})
        if bit:
            content[METRICS]["norm_bit"] = int(length > norm)
        if kind:
            content[PRIVACY] = ConfigRecord({PRIVACY_MOD: kind})

    return spoil


# --- robust aggregation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "step"),
    [
        ("mean", (0 * 1 + 1 * 2 + 2 * 3 + 3 * 4 + 1000 * 5) / 15),
        ("median", 2.0),
        ("trimmed-mean", (1 + 2 + 3) / 3),
        # Updates (k, k), k = 1, 2, 3, 1000, all cut to norm 1 and of equal weight; site 0's is zero, and is left out.
        ("norm-clipping", 1 / np.sqrt(2)),
    ],
)
def test_one_site_that_lies(method, step):
    def lie(site, instruction, content):
        if site == 4 and ARRAYS in content:
            content[ARRAYS] = to_array_record({"w": START["w"] + 1000})

    arrays, (report,) = run(made(method=method), client(lie))
    assert arrays["w"] - START["w"] == pytest.approx(np.full(2, step), rel=1e-4)
    zero = [("s0", "its update is zero; Flower's clipping divides by the norm")]
    assert report.dropped == (zero if method == "norm-clipping" else [])


def test_a_trimmed_mean_that_trims_none_is_refused():
    with pytest.raises(RunError, match="beta = 0.1 of 5 replies trims none"):
        run(made(method="trimmed-mean", trim_share=0.1))


def test_too_few_replies_to_trim_keep_the_old_model():
    def silent(site, instruction, content):
        if site < 2:
            raise ValueError("gone")

    arrays, (report,) = run(made(method="trimmed-mean"), client(silent))
    assert report.kept_old_model and not arrays
    assert (
        "server",
        "FedTrimmedAvg: beta = 0.2 of 3 replies trims none: raise it, or fraction_train.",
    ) in report.dropped


# --- noise ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_reply_weighs_the_same_and_noise_is_shared_among_those_that_came(quiet, kind):
    """Sites 1, 2, 4 with updates (k, k) cut to norm 1; site 3 sends NaN and site 0 nothing: 3 replies, sd z C / 3."""

    def spoil(site, instruction, content):
        if site == 0:
            raise ValueError("gone")
        honest(1.0, kind)(site, instruction, content)
        if site == 3 and ARRAYS in content:
            content[ARRAYS] = to_array_record({"w": np.array([np.nan, 1.0], np.float32)})

    plan = made(privacy=accounting(kind), noise_multiplier=0.6)
    arrays, (report,) = run(plan, client(spoil))
    assert report.usable == ["s1", "s2", "s4"] and not report.kept_old_model
    assert arrays["w"] - START["w"] == pytest.approx(np.full(2, 1 / np.sqrt(2)), rel=1e-4)
    share = 1.0 if kind.endswith("fixed") else (1 - 1 / 4) ** -0.5  # the count of clipped updates takes its part
    assert quiet == [pytest.approx(0.6 * share / 3)]
    assert report.privacy["clipping_norm"] == 1.0


def test_weights_do_not_follow_numbers_of_examples(quiet):
    """Site 1 up, site 4 down by norm 1: with equal weights they cancel."""

    def spoil(site, instruction, content):
        if site not in (1, 4):
            raise ValueError("gone")
        if ARRAYS in content:
            content[ARRAYS] = to_array_record({"w": START["w"] + np.float32(9 if site == 1 else -9)})

    arrays, _ = run(made(privacy=accounting("server-fixed")), client(spoil))
    assert arrays["w"] == pytest.approx(START["w"], abs=1e-6)


@pytest.mark.parametrize("kind", ["server-adaptive", "client-adaptive"])
@pytest.mark.parametrize(("norm", "wanted"), [(0.1, np.exp(0.2 * 0.5)), (50.0, np.exp(-0.2 * 0.5))])
def test_an_adaptive_norm_follows_the_updates(quiet, kind, norm, wanted):
    """All are clipped, of which half is wanted: the norm grows. None is: it shrinks. Noise is by the round's norm."""

    def spoil(site, instruction, content):
        if site == 0:
            raise ValueError("gone")
        if ARRAYS in content:
            update = np.full(2, site, np.float32) * (min(1, norm / (np.sqrt(2) * site)) if "client" in kind else 1)
            content[ARRAYS] = to_array_record({"w": START["w"] + update.astype(np.float32)})
            content[METRICS]["norm_bit"] = int(norm < np.sqrt(2) * site)
            content[PRIVACY] = ConfigRecord({PRIVACY_MOD: kind})

    plan = made(privacy=kind, clipping_norm=norm, noise_multiplier=0.1)
    run(plan, client(spoil))
    assert plan.clipping.norm == pytest.approx(norm * wanted, rel=1e-6)
    assert quiet == [pytest.approx(0.1 * (3 / 4) ** -0.5 * norm / 4)]


# --- the client's part ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["client-fixed", "client-adaptive", "local"])
def test_a_federation_without_the_mod_is_refused(kind):
    with pytest.raises(RunError, match=f'Round 1: the client\'s privacy mod did not run: expected "{kind}"'):
        run(made(Schedule(9, 0), privacy=accounting(kind)))


def test_one_site_without_the_mod_is_left_out(quiet):
    def spoil(site, instruction, content):
        honest(1.0, "" if site == 2 else "client-fixed")(site, instruction, content)

    _, (report,) = run(made(privacy=accounting("client-fixed")), client(spoil))
    assert report.usable == ["s0", "s1", "s3", "s4"]
    assert report.dropped[0][1].startswith("the client's privacy mod did not run")


@pytest.mark.parametrize("kind", ["client-fixed", "client-adaptive"])
def test_a_client_that_says_it_clipped_and_did_not_is_dropped(quiet, kind):
    def spoil(site, instruction, content):
        honest(1.01 if site == 2 else 1.0, kind)(site, instruction, content)

    _, (report,) = run(made(privacy=accounting(kind)), client(spoil))
    ((site, reason),) = report.dropped
    assert site == "s2" and reason == "its update has norm 1.01, the clipping norm is 1: the client did not clip"


@pytest.mark.parametrize("bit", [None, 2, [1]])
def test_a_client_without_the_norm_bit_costs_itself_the_round_alone(quiet, bit):
    def spoil(site, instruction, content):
        honest(1.0, "client-adaptive")(site, instruction, content)
        if site == 2 and ARRAYS in content:
            own = {key: value for key, value in content[METRICS].items() if key != "norm_bit"}
            content[METRICS] = MetricRecord(own if bit is None else own | {"norm_bit": bit})

    _, (report,) = run(made(privacy="client-adaptive", noise_multiplier=0.1), client(spoil))
    assert len(report.usable) == 4 and report.dropped[0][1].startswith("norm_bit = ") and not report.kept_old_model


def test_an_array_that_flower_would_not_clip_is_refused():
    with pytest.raises(RunError, match=r"\['w'\]: Flower clips no array of shape"):
        made(method="norm-clipping").clipping.refuse_scalars(ArrayRecord({"w": Array(np.array(1.0, np.float32))}))


# --- the account ------------------------------------------------------------------------------------------------------


def epsilon(noise, releases):
    from dp_accounting import dp_event, rdp

    accountant = rdp.RdpAccountant()
    accountant.compose(dp_event.GaussianDpEvent(noise), releases)
    return accountant.get_epsilon(1e-5)


def test_epsilon_counts_releases_and_not_rounds(quiet):
    """Round 2 has no usable reply and releases nothing; personal rounds never do."""
    accounting("server-fixed")

    def spoil(site, instruction, content):
        if instruction.round == 2:
            raise ValueError("gone")

    plan = made(Schedule(3, 2), privacy="server-fixed", noise_multiplier=2.0)
    assert f"epsilon = {epsilon(2.0, 3):.2f} at delta = 1e-05 when all 3" in plan.privacy_outlook()
    _, reports = run(plan, client(spoil))
    assert [report.privacy.get("releases") for report in reports] == [1, None, 2, None, None]
    assert reports[2].privacy["epsilon"] == pytest.approx(epsilon(2.0, 2))


def test_a_resumed_account_counts_the_round_that_may_have_been_lost(quiet):
    accounting("server-fixed")
    plan = made(Schedule(5, 1), privacy="server-fixed")
    run(plan, rounds=2)
    state = json.loads(json.dumps(plan.state()))
    assert state["privacy"]["spent"]["releases"] == 2 and state["privacy"]["if_cut_off"]["releases"] == 3
    for times in (1, 2):  # cut off again at once: each attempt may have released one
        again = made(Schedule(5, 1), privacy="server-fixed")
        again.restore(state)
        state = json.loads(json.dumps(again.state()))
        assert state["privacy"]["spent"]["releases"] == 2 + times
    run(again, rounds=4)
    assert again.clipping.facts()["releases"] == 2 + 2 + 3  # saved, may be lost, played now
    assert again.clipping.facts()["epsilon"] == pytest.approx(epsilon(1.0, 7))
    over = made(Schedule(5, 1), privacy="server-fixed")
    over.restore(again.state())
    assert over.clipping.facts()["releases"] == 7  # after the last global round none can be lost


def test_a_checkpoint_without_an_account_is_refused():
    accounting("server-fixed")
    plan = made(Schedule(5, 1), privacy="server-fixed")
    state = plan.state()
    del state["privacy"]["accountant"]
    with pytest.raises(StateError, match="no account of the privacy"):
        made(Schedule(5, 1), privacy="server-fixed").restore(state)


def test_a_resumed_run_takes_up_the_adaptive_norm(quiet):
    plan = made(Schedule(5, 1), privacy="server-adaptive", noise_multiplier=0.1)
    run(plan, rounds=2)
    again = made(Schedule(5, 1), privacy="server-adaptive", noise_multiplier=0.1)
    again.restore(json.loads(json.dumps(plan.state())))
    assert again.clipping.norm == plan.clipping.norm != 1.0
    assert again.clipping.facts() == {} and "no account" in again.privacy_outlook()


def test_a_missing_accountant_is_named_with_the_command(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(RunError, match=r'pip install "fedpurel-app\[dp\]"'):
        Aggregation(privacy="server-fixed").strategy()


@pytest.mark.parametrize("kind", ["none", "local"])
def test_without_clipping_at_the_server_the_mean_is_flowers_own(kind):
    plan = Aggregation(privacy=kind).strategy()
    assert type(plan) is FedAvg and layers(plan) == [plan]


def test_sent_arrays_are_left_as_they_are():
    """The check of an update reads, and changes nothing."""
    record: ArrayRecord = to_array_record(START)
    run(made(method="norm-clipping"))
    assert np.array_equal(record["w"].numpy(), START["w"])
