"""Three sites as real SuperNodes behind TLS and keys: a whole run, what it sends, and one that loses every process.

Minutes; run with ``pytest -m slow``.
"""

import stat
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedpurel_app.core.records import to_array_record
from fedpurel_app.reporting.run_folder import RunFolder
from tests.integration.certificates import make_authority, make_key
from tests.integration.deployment import HOST, Federation, free_ports
from tests.support import CLASS_NAMES, HELD, EndedRun, own_sites
from tests.wire import array_bytes, facts, found, objects, secrets_of

pytestmark = pytest.mark.slow
PATIENCE = 600.0  # seconds for a few rounds: each message is a process
COHORTS = [
    ["east", "south"],
    ["north", "south"],
    ["east", "south"],
    ["north", "south"],
    ["north", "south"],
]  # of seed 0
MAY_LEAVE = {"site", "partitions", "device", "num-examples", "seconds", "feature-seconds", "loss", "conflict", "angle"}
MAY_LEAVE |= {"tkl", "align-loss", "drift", "steps", "test-examples"}
MAY_LEAVE |= {f"{model}/{what}" for model in ("zero-shot", "global", "personalized") for what in ("correct", "total")}
# At the default calibration = "global": in 15 bins, over all classes, of the models that hold nothing private.
IN_BINS = {f"{model}/bin-{what}" for model in ("zero-shot", "global") for what in ("total", "correct", "confidence")}
MAY_LEAVE |= IN_BINS | {"zero-shot/nll", "global/nll", "validation-examples"}
MAY_LEAVE |= {"global/right-with-zero-shot", "personalized/right-with-global"}


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("federation")
    federation = Federation(folder / "flower", {node["site"]: node for node in own_sites(folder)})
    try:
        federation.start()
        yield federation
    finally:
        federation.stop()


@pytest.fixture(scope="module")
def strangers(federation):
    """Nodes that must be refused, and with what words; they knock while a run goes on."""
    folder = federation.folder
    known, unknown = federation.keys["north"], make_key(folder, "unknown")
    own, other = federation.authority, make_authority(folder, "other")
    tls, key = "--root-certificates", "--auth-supernode-private-key"
    cases = {
        "unregistered": ([tls, own, key, unknown], "Failed to activate SuperNode"),
        "keyless": ([tls, own], "All SuperNodes must be registered"),
        "plain": (["--insecure"], "Server disconnected without sending a response"),
        "misled": ([tls, other, key, known], "certificate verify failed"),
    }
    for (name, (options, _)), port in zip(cases.items(), free_ports(len(cases)), strict=True):
        federation.spawn(name, "flower-supernode", "--superlink", f"{HOST}:{federation.ports['link']}", *options,
                         "--isolation", "process", "--port", port, "--max-retries", "1")  # fmt: skip
    return {name: words for name, (_, words) in cases.items()}


def settings(federation, name, **changes):
    return {
        "dataset": "sites",
        "classes": ", ".join(CLASS_NAMES),
        "global-rounds": 2,
        "personal-rounds": 3,
        "fraction-train": 0.67,
        "num-sites": 3,
        "round-timeout": 120.0,
        "experiment-id": name,
        "out": str(federation.folder / name),
    } | changes


@pytest.fixture(scope="module")
def whole(federation, strangers):
    """An uninterrupted run."""
    status = federation.finish(federation.submit(settings(federation, "whole")), PATIENCE)
    assert status == "finished:completed", federation.log("link-exec")
    return RunFolder(federation.folder / "whole")


def branches(federation, experiment, site):
    """Private branches of a site by the round that made them."""
    folder = federation.folder.parent / f"{site}-state" / experiment / site
    return {int(path.stem.removeprefix("private-")): path for path in folder.glob("private-*.safetensors")}


def equal(path, other):
    """Whether two files hold the same tensors, to the bit; their experiments differ."""
    one, two = load_file(path), load_file(other)
    return one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)


def test_a_run_over_three_sites_completes(federation, whole):
    summary, rounds = whole.summary(), whole.rounds()[1:]
    assert summary["outcome"] == "completed" and summary["rounds"] == 5
    assert summary["global"] is None and summary["zero_shot"] is None
    assert summary["reasons"]["global"] == "the server evaluated no test set"
    assert summary["dropped_replies"] == summary["rounds_without_quorum"] == 0
    assert [line["cohort"] for line in rounds] == [line["usable"] for line in rounds] == COHORTS
    assert summary["personalized"]["all"] is not None and summary["personalized"]["balancedness"] is None
    code = whole.read_json("config.json")["code"]
    assert code.startswith(str(federation.folder / "flwr-link-exec")), "of the bundle"
    stamps = {site: sorted(branches(federation, "whole", site)) for site in HELD}
    assert stamps == {"east": [3], "north": [4, 5], "south": [4, 5]}  # the last two
    for site in HELD:
        for path in branches(federation, "whole", site).values():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not (whole.path / "private").exists()


def test_strangers_are_refused(federation, strangers, whole):
    federation.until(lambda: not any(map(federation.alive, strangers)), "all strangers to give up", 120)
    for name, words in strangers.items():
        log = federation.log(name)
        assert federation.exit_code(name) not in (0, None) and words in log and "SuperNode ID" not in log, log
    assert sorted(whole.read_json("state.json")["roster"]) == sorted(HELD)


def test_no_byte_of_a_site_s_own_is_on_the_wire(federation, whole):
    data = federation.folder.parent
    for site, recorder in federation.recorders.items():
        streams = recorder.sent
        secrets = secrets_of(data / site, data / f"{site}-state", CLASS_NAMES)
        assert sum(name.startswith("private-") for name in secrets) >= 3
        assert not found(b"\0".join(streams), secrets)
        told = [facts(one) for stream in streams for one in objects(stream)]
        assert {name for one in told for name in one} <= MAY_LEAVE
        lists = {name: value for one in told for name, value in one.items() if isinstance(value, list | bytes)}
        assert lists.keys() <= IN_BINS and all(len(value) == 15 for value in lists.values())
        assert site in {one["site"] for one in told if "site" in one}
        # The search finds what is there: the parameters that this site trained, and a private branch if it is added.
        trained = {str(i): piece for i, piece in enumerate(filter(None, pushed(streams)))}
        assert len(trained) == sum(site in cohort for cohort in COHORTS[:2])
        assert found(b"\0".join(streams), trained) == list(trained)
        tensor = next(iter(load_file(next(iter(branches(federation, "whole", site).values()))).values()))
        planted = next(iter(to_array_record({"w": tensor}).values())).data
        assert found(b"\0".join([*streams, planted]), secrets)


def test_a_second_registered_key_that_claims_a_name_is_refused_and_the_first_goes_on(federation, whole):
    """It joins in the middle of a run, with the name and the data of a site that is there."""
    folder = RunFolder(federation.folder / "claimed")
    federation.register("thief", {**federation.nodes["north"], "state-dir": str(federation.folder / "thief-state")})
    run = federation.submit(settings(federation, "claimed", **{"fraction-train": 1.0}))
    federation.until(lambda: len(folder.rounds()) > 1, "round 1", PATIENCE)
    federation.start_node("thief")
    assert federation.finish(run, PATIENCE) == "finished:completed", federation.log("link-exec")
    assert all(line["usable"] == sorted(HELD) for line in folder.rounds()[1:]), "the first goes on"
    assert 'calls itself north, which is the name of the node registered as "north"' in federation.app_log(run)
    owners = folder.read_json("state.json")["keys"]
    assert {site: owner["name"] for site, owner in owners.items()} == {site: site for site in HELD}
    assert not list((federation.folder / "thief-state").rglob("private-*"))
    federation.kill("thief", "thief-exec")


def pushed(streams):
    return (array_bytes(one) for stream in streams for one in objects(stream))


def test_a_run_outlives_its_link_a_node_and_its_server(federation, whole):
    """One run, in which each is killed -9 in the midst of a round; it ends as the run that nothing happened to."""
    name, site = "faulty", "south"
    folder = RunFolder(federation.folder / name)
    run = federation.submit(settings(federation, name))

    def reach(number):
        federation.until(lambda: len(folder.rounds()) > number, f"round {number}", PATIENCE)
        return folder.rounds()[number]

    def at_work(who):
        federation.until(lambda: federation.is_at_work(who, folder.path), f"{who} to work", PATIENCE)

    reach(2)
    at_work("south")  # round 3
    federation.kill("link")
    time.sleep(2)
    federation.start_link()
    line = reach(3)
    assert line["usable"] == COHORTS[2] and not line["dropped"]

    at_work(site)  # round 4
    kept = {stamp: path.read_bytes() for stamp, path in branches(federation, name, site).items()}
    assert sorted(kept) == [3]
    federation.kill(site, f"{site}-exec")
    while len(folder.rounds()) <= 4 or not federation.alive(site):  # as a supervisor does
        if not federation.alive(site):
            federation.restart_node(site)
        time.sleep(1)
    line = reach(4)
    assert line["usable"] == ["north"] and [one for one, _ in line["dropped"]] == [site]
    assert line["dropped"][0][1].startswith("no reply"), line

    at_work("north")  # round 5
    (server, *_) = [one for one in federation.app_processes("link") if "flwr-serverapp" in " ".join(one.cmdline())]
    server.kill()
    state = folder.read_checkpoint()[1]
    assert state["round"] == 4 and state["private_rounds"] == {"east": 3, "north": 4, "south": 3}
    assert folder.summary() is None
    assert federation.finish(run, 180) == "finished:failed"  # and nobody works for it any more

    run = federation.submit({**settings(federation, name), "resume-from": str(folder.path)})
    assert federation.finish(run, PATIENCE) == "finished:completed", federation.log("link-exec")
    assert [line["cohort"] for line in folder.rounds()[1:]] == COHORTS
    assert folder.rounds()[5]["usable"] == COHORTS[4]
    summary = EndedRun(folder.path).summary()
    assert summary["outcome"] == "completed" and summary["dropped_replies"] == 1
    checkpoint = "checkpoint.safetensors"
    assert (folder.path / checkpoint).read_bytes() == (whole.path / checkpoint).read_bytes()
    after = branches(federation, name, site)
    assert sorted(after) == [3, 5] and {3: after[3].read_bytes()} == kept
    for other in ("east", "north"):
        before, now = branches(federation, "whole", other), branches(federation, name, other)
        assert before.keys() == now.keys() and all(equal(before[stamp], now[stamp]) for stamp in now)
