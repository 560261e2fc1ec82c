"""A run's page on the loopback interface: who gets it, and that nothing else is there."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

from fedpurel_app.cli.main import main
from fedpurel_app.core.errors import StateError
from fedpurel_app.reporting.page.follow import Server
from fedpurel_app.reporting.page.snapshot import Snapshot
from tests.reporting.runs import make_run, scores, write
from tests.reporting.sweeps import cell, write_plan, write_run
from tests.reporting.sweeps import scores as one_score
from tests.support import a_round


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run without an outcome."""
    folder = make_run(tmp_path_factory.mktemp("follow") / "run")
    (folder / "summary.json").unlink()
    return folder


@pytest.fixture(scope="module")
def server(run):
    with Server(run, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Blunt(http.client.HTTPConnection):
    """Sends a path as it is, bytes beyond ASCII included."""

    def _encode_request(self, request):
        return request.encode("latin-1")


def ask(server, path=None, method="GET", **headers):
    """Send a request; returns its status, headers and content."""
    connection = Blunt("127.0.0.1", server.server_port, timeout=60)
    connection.request(method, f"/{server.token}/" if path is None else path, headers=headers)
    response = connection.getresponse()
    found = response.status, dict(response.getheaders()), response.read()
    connection.close()
    return found


def test_the_page_is_served_with_what_keeps_it_to_itself(server):
    status, headers, content = ask(server)
    assert status == 200 and content.startswith(b"<!doctype html>")
    assert headers["Content-Type"] == "text/html; charset=utf-8" and int(headers["Content-Length"]) == len(content)
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:") and "script" not in policy
    assert headers["Cache-Control"] == "no-store" and headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer" and headers["Server"] == "fedpurel"


def test_a_head_has_no_content(server):
    status, headers, content = ask(server, method="HEAD")
    assert status == 200 and content == b"" and int(headers["Content-Length"]) > 10_000


def test_nothing_but_the_page_is_there(server):
    token = server.token
    near = (f"/{token}", f"/{token}/x", f"/{token[:-1]}/", f"/{token}x/", f"//{token}/", f"/{token}/?x")
    others = (*near, "/", "/favicon.ico", f"/{token}/../config.json", "/caf\xc3\xa9")
    for path in others:
        status, headers, content = ask(server, path)
        assert (status, content) == (404, b"not found\n"), path
        assert headers["Content-Security-Policy"] and token not in str(headers)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "NONSENSE"])
def test_other_methods_are_refused(server, method):
    status, headers, content = ask(server, method=method)
    assert status == 405 and headers["Allow"] == "GET, HEAD" and method.encode() not in content


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost"])
def test_a_name_that_only_leads_here_gets_nothing(server, host):
    """As a page elsewhere has it whose name server was told to answer 127.0.0.1."""
    assert ask(server, Host=host.format(port=server.server_port))[0] == 404


def test_a_request_needs_one_host(server):
    assert ask(server, Host=f"localhost:{server.server_port}")[0] == 200
    for hosts in ("", f"Host: 127.0.0.1:{server.server_port}\r\nHost: evil.example\r\n"):
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as plain:
            plain.sendall(f"GET /{server.token}/ HTTP/1.1\r\n{hosts}\r\n".encode())
            assert b"404" in plain.makefile("rb").readline()


def test_a_browser_that_says_nothing_keeps_nobody_waiting(server):
    with socket.create_connection(("127.0.0.1", server.server_port)):
        assert ask(server)[0] == 200


def test_it_listens_to_this_machine_alone_at_an_address_nobody_guesses(server, run):
    assert server.socket.getsockname()[0] == "127.0.0.1"
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", server.address)
    with Server(run, 0) as other:
        assert other.token != server.token and other.server_port != server.server_port


def test_a_page_is_made_anew_only_when_a_file_is_another(tmp_path):
    run = make_run(tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").unlink()
    with Server(run, 0) as server, Snapshot(run).lock():
        pages = server.pages
        first = pages.current()
        assert pages.current() is first and pages.made == 1
        assert b'http-equiv="refresh"' in first and b"4 of 4 rounds are over" in first
        with (run / "rounds.jsonl").open("a") as file:
            more = a_round(5, total_rounds=6, **{"global": scores(75.0, 59.0)})
            file.write(json.dumps(more) + "\n")
        assert b"5 of 6 rounds are over" in pages.current() and pages.made == 2
        write(run / "summary.json", summary)
        last = pages.current()
        assert pages.made == 3 and b'http-equiv="refresh"' not in last and b">completed<" in last


def test_a_sweep_is_followed_from_before_its_first_run_to_its_last(tmp_path):
    sweep = write_plan(tmp_path / "sweep", ["A"], [cell("A", seed) for seed in (0, 1)])
    settings = {"algorithm": "fedavg"}
    with Server(sweep, 0) as server:
        first = server.pages.current()
        assert b"0 of 2 runs are completed" in first and b'http-equiv="refresh"' in first
        assert server.pages.current() is first and server.pages.made == 1
        for seed in (0, 1):
            models = {"global": one_score(60.0 + seed), "global_at_sites": one_score(50.0)}
            write_run(sweep / "runs" / f"a-s{seed}", {**settings, "seed": seed}, models)
            (sweep / "runs" / f"a-s{seed}" / "report.html").write_text("")
            page = server.pages.current()
            assert f"{seed + 1} of 2 runs are completed".encode() in page and server.pages.made == seed + 2
        assert b'http-equiv="refresh"' not in page and "60.5 ± 0.7".encode() in page
        assert b"report.html" not in page  # which is not served


def test_a_damaged_file_is_an_error_until_it_is_whole(tmp_path):
    run = make_run(tmp_path / "run")
    whole = (run / "summary.json").read_text()
    with Server(run, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            (run / "summary.json").write_text("{")
            status, headers, content = ask(server)
            assert status == 500 and b"summary.json" in content and headers["Content-Type"].startswith("text/plain")
            (run / "summary.json").write_text(whole)
            assert ask(server)[0] == 200
        finally:
            server.shutdown()
            thread.join()


def test_a_fault_of_the_page_itself_is_told_and_not_an_empty_answer(server, monkeypatch):
    def fail():
        raise KeyError("no_such_column")

    monkeypatch.setattr(server.pages, "current", fail)
    status, _, content = ask(server)
    assert status == 500 and content == b"error: KeyError: 'no_such_column'\n"


def test_what_cannot_be_followed_is_refused(tmp_path, server, run, capsys):
    with pytest.raises(StateError, match="neither a run nor a sweep"):
        Server(tmp_path, 0)
    assert main(["report", str(run), "--follow", "--port", str(server.server_port)]) == 2
    assert "choose another" in capsys.readouterr().err
    assert main(["report", str(run), "--follow", "--out", "x.html"]) == 2
    assert "leave out --out" in capsys.readouterr().err


def test_an_interrupt_ends_the_command_with_0_and_it_says_its_address_once(run):
    command = [sys.executable, "-m", "fedpurel_app.cli.main", "report", str(run), "--follow"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        found = re.match(r"http://127\.0\.0\.1:(\d+)(/[\w-]+/) ", line)
        assert found, line
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
        connection.request("GET", found[2])
        assert connection.getresponse().status == 200
        connection.close()
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
        assert (process.returncode, out, errors) == (0, "", "")
    finally:
        process.kill()
        process.wait()
