"""A server and two sites with a network of their own: one site's cable is pulled for a minute in the midst of a round.

Minutes; run with ``pytest -m slow`` as root, with iproute2.
"""

import subprocess
import sys
import time

import pytest

from fedpurel_app.reporting.run_folder import RunFolder
from tests.integration.deployment import Federation
from tests.integration.namespaces import SERVER, SERVER_ADDRESS, Network, UnavailableError
from tests.support import CLASS_NAMES, EndedRun, own_sites

pytestmark = [pytest.mark.slow, pytest.mark.drill]
CUT, OTHER = "north", "south"
AWAY = 60.0  # seconds without a cable
PATIENCE = 300.0  # seconds for a round
ROUNDS = 12  # of 6 s or more: the site may be away in eight, as its SuperNode tries again every 20 s at most
PROBE = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"


class Machines(Federation):
    """A federation whose link, with its user, and sites are on machines of their own."""

    def __init__(self, folder, nodes, network):
        super().__init__(folder, nodes, host=SERVER_ADDRESS, recorded=False)
        self.network = network

    def _enter(self, name):
        site = name.removesuffix("-exec")
        return self.network.enter(site if site in self.nodes else SERVER)

    def reaches_link(self, name):
        """Whether a process on a machine could connect to the SuperLink."""
        command = [*self._enter(name), sys.executable, "-c", PROBE, self.host, str(self.ports["link"])]
        return subprocess.run(command, capture_output=True, timeout=30).returncode == 0

    def link_answers(self):
        return self.reaches_link("link")  # this process is on another machine


@pytest.fixture
def federation(tmp_path):
    nodes = {node["site"]: node for node in own_sites(tmp_path) if node["site"] in (CUT, OTHER)}
    try:
        network = Network(list(nodes))
    except UnavailableError as error:
        pytest.skip(str(error))
    try:
        federation = Machines(tmp_path / "flower", nodes, network)
        try:
            federation.start()
            yield federation
        finally:
            federation.stop()
    finally:
        network.remove()


def test_a_site_that_is_cut_off_for_a_minute_comes_back(federation, tmp_path):
    folder = RunFolder(tmp_path / "run")
    run = federation.submit(
        {
            "dataset": "sites",
            "classes": ", ".join(CLASS_NAMES),
            "global-rounds": 1,
            "personal-rounds": ROUNDS - 1,
            "evaluate-every": 100,  # the ends of both phases
            "fraction-train": 1.0,
            "num-sites": 2,
            "round-timeout": 180.0,
            "experiment-id": "drill",
            "out": str(folder.path),
        }
    )

    def reach(number):
        federation.until(lambda: len(folder.rounds()) > number, f"round {number}", PATIENCE)
        return folder.rounds()[number]

    def branches(site):
        place = tmp_path / f"{site}-state" / "drill" / site
        return {
            int(path.stem.removeprefix("private-")): path.read_bytes() for path in place.glob("private-*.safetensors")
        }

    def has_received():
        log = federation.log(CUT)
        return log.rfind("Received successfully") > log.rfind("Receiving:")

    assert federation.reaches_link(CUT) and federation.reaches_link(OTHER)
    assert reach(2)["usable"] == [CUT, OTHER]
    kept = branches(CUT)
    assert sorted(kept) == [2]
    federation.until(lambda: federation.is_at_work(CUT, folder.path) and has_received(), f"{CUT} to work", PATIENCE)

    federation.network.cut(CUT)  # in round 3
    began = time.monotonic()
    assert not federation.reaches_link(CUT) and federation.reaches_link(OTHER)
    federation.until(lambda: 3 in branches(CUT), "the site to end its work, alone", PATIENCE)
    line = reach(3)  # ends as soon as Flower takes the site for lost
    noticed = time.monotonic() - began
    assert line["usable"] == [OTHER] and line["cohort"] == [CUT, OTHER] and not line["kept_old_model"]
    ((site, reason),) = line["dropped"]
    assert site == CUT and reason.startswith("no reply"), reason
    line = reach(4)  # goes on with the other, and waits for nobody
    assert line["usable"] == [OTHER] and line["dropped"] == [[CUT, "not connected"]]
    time.sleep(max(0.0, began + AWAY - time.monotonic()))
    federation.network.mend(CUT)
    mended = time.monotonic()

    assert branches(CUT) == kept | {3: branches(CUT)[3]}
    federation.until(lambda: CUT in folder.rounds()[-1]["usable"], f"{CUT} to come back", PATIENCE)
    back, returned, now = folder.rounds()[-1]["round"], time.monotonic(), branches(CUT)
    # What it made while nobody heard of it is set aside: it goes on from the branch that the server knows of.
    assert now == kept | {back: now[back]}
    print(f"round 3 ended {noticed:.0f} s after the cut, mended after {mended - began:.0f} s, "
          f"usable in round {back}, {returned - mended:.0f} s later")  # fmt: skip
    assert federation.finish(run, PATIENCE) == "finished:completed", federation.log("link-exec")

    rounds, summary = folder.rounds()[1:], EndedRun(folder.path).summary()
    assert summary["outcome"] == "completed" and summary["rounds"] == ROUNDS
    assert summary["rounds_without_quorum"] == 0 and not any(line["kept_old_model"] for line in rounds)
    for line in rounds:
        here = line["round"] < 3 or line["round"] >= back
        assert line["usable"] == ([CUT, OTHER] if here else [OTHER]) and bool(line["dropped"]) is not here, line
    assert sorted(folder.read_json("state.json")["roster"]) == [CUT, OTHER]
    assert federation.log(CUT).count("SuperNode ID") == 1, "it came back by itself, under its key and name"
    assert max(branches(CUT)) == max(branches(OTHER)) == ROUNDS
