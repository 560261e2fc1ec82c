"""Whole runs under each aggregation and each kind of privacy: the real apps in this process."""

import numpy as np
import pytest
from flwr.clientapp import ClientApp

from fedpurel_app import client_app as client
from fedpurel_app.core.errors import RunError
from fedpurel_app.core.records import ARRAYS, to_arrays
from fedpurel_app.reporting.console import round_line, show_lines
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.server_app import app as server_app
from tests.support import EndedRun, private_files, run_app, run_tiny, tiny_config
from tests.test_run import Killed, kill_at

FIXED = ("server-fixed", "client-fixed")
KINDS = (*FIXED, "server-adaptive", "client-adaptive", "local")


def accounted(kind):
    if kind in FIXED:
        pytest.importorskip("dp_accounting")
    return kind


class Updates:
    """Norms of the updates that sites send in training."""

    def __init__(self):
        self.norms = []

    def __call__(self, message, reply):
        if message.metadata.message_type == "train":
            before, after = to_arrays(message.content[ARRAYS]), to_arrays(reply.content[ARRAYS])
            self.norms.append(np.sqrt(sum(np.square(after[name] - value).sum() for name, value in before.items())))


@pytest.mark.parametrize("method", ["median", "trimmed-mean", "norm-clipping"])
def test_every_aggregation_runs_to_completion(tmp_path, method):
    summary = run_tiny(tmp_path, aggregation=method, fraction_train=1.0).summary()
    assert summary["outcome"] == "completed" and summary["dropped_replies"] == 0 and summary["privacy"] is None
    assert summary["rounds_without_quorum"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_privacy_runs_both_phases(tmp_path, kind):
    """A tiny clipping norm shows who clips: at the client what is sent is that short, at the server it is not."""
    np.random.seed(0)  # Flower's noise, which our own seeds leave alone
    spy = Updates()
    own = {} if kind == "local" else {"noise_multiplier": 0.5}
    folder = run_tiny(tmp_path, privacy=accounted(kind), clipping_norm=1e-3, grid={"spy": spy}, **own)
    summary, rounds = folder.summary(), folder.rounds()
    assert summary["outcome"] == "completed" and summary["dropped_replies"] == summary["rounds_without_quorum"] == 0
    assert [line["phase"] for line in rounds[1:]] == 3 * ["global"] + 3 * ["personal"] and private_files(folder)
    spent, lines = summary["privacy"], "\n".join([*show_lines(folder), *map(round_line, rounds)])
    if kind == "local":  # noise of sd 2 C sqrt(2 ln(1.25 / delta)) / epsilon in each of 48 numbers
        assert np.mean(spy.norms) == pytest.approx(9.69e-3 * np.sqrt(48), rel=0.3)
    elif kind.startswith("client"):
        assert max(spy.norms) < 1.001 * max(line["privacy"]["clipping_norm"] for line in rounds[1:4])
    else:
        assert min(spy.norms) > 2e-3
    if kind in FIXED:
        assert spent["releases"] == 3 and spent["delta"] == 1e-5 and spent["epsilon"] > 1
        assert rounds[3]["privacy"]["epsilon"] == spent["epsilon"]
        assert f"epsilon = {spent['epsilon']:.2f}" in lines and f"epsilon {spent['epsilon']:.2f}" in lines
    else:
        assert spent["epsilon"] is None and "Flower keeps no account of epsilon" in lines
    if kind.endswith("adaptive"):
        norms = [line["privacy"]["clipping_norm"] for line in rounds[1:4]]
        assert norms[0] == 1e-3 and norms == sorted(norms) and norms[1] > norms[0]


@pytest.mark.parametrize("kind", ["client-fixed", "client-adaptive", "local"])
def test_a_run_whose_clients_lost_their_mod_is_refused(tmp_path, kind):
    bare = ClientApp()
    bare.query("describe")(client.describe)
    bare.train()(client.train)
    bare.evaluate()(client.evaluate)
    config = tiny_config(tmp_path, privacy=accounted(kind))
    with pytest.raises(RunError, match="the client's privacy mod did not run"):
        run_app(server_app, bare, 5, config)
    folder = EndedRun(tmp_path / "run")
    assert folder.summary()["outcome"] == "failed" and len(folder.rounds()) <= 3  # two of five sites in a round


@pytest.mark.parametrize("point", ["checkpoint.safetensors", "state.json"])
def test_epsilon_is_never_below_what_was_released(tmp_path, monkeypatch, point):
    """Killed in round 2 after its release and before its checkpoint, which is played and released again."""
    accounted("server-fixed")
    settings = {"privacy": "server-fixed", "experiment_id": "same"}
    with monkeypatch.context() as patch:
        kill_at(patch, 2, point)
        with pytest.raises(Killed):
            run_tiny(tmp_path, **settings)
    cut = RunFolder(tmp_path / "run")
    assert (spent := cut.spent()) and spent["if_cut_off"]["releases"] == 2
    resumed = run_tiny(tmp_path, **settings, resume_from=str(cut.path))
    assert resumed.summary()["privacy"]["releases"] == 4  # rounds 1, 2, 2 again, 3
    assert [line["privacy"]["releases"] for line in resumed.rounds()[1:4]] == [1, 3, 4]


def test_a_resumption_that_is_cut_off_at_once_is_on_disk(tmp_path, monkeypatch):
    """What may have been lost is written before the first message, so that a second crash forgets nothing."""
    accounted("server-fixed")
    settings = {"privacy": "server-fixed", "experiment_id": "same"}
    with monkeypatch.context() as patch:
        kill_at(patch, 2, "state.json")
        with pytest.raises(Killed):
            run_tiny(tmp_path, **settings)
    folder = RunFolder(tmp_path / "run")
    for releases in (2, 3):
        with monkeypatch.context() as patch:
            kill_at(patch, 2, "state.json")
            with pytest.raises(Killed):
                run_tiny(tmp_path, **settings, resume_from=str(folder.path))
        assert (spent := folder.spent()) and spent["spent"]["releases"] == releases
        assert spent["if_cut_off"]["releases"] == releases + 1
