"""What ``flwr run .`` sends to the SuperLink and the Hub publishes, and the wheel: both work without the checkout."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import FAB_MAX_SIZE

PROJECT = Path(__file__).parent.parent
PUBLISHED = {".py", ".toml", ".md", ".yaml", ".yml", ".json", ".jsonl"}  # of the Hub, and files without ending


def files_of():
    """Return what of the checkout may go into a bundle, by name."""
    names = ["pyproject.toml", "README.md", "LICENSE", ".gitignore"]
    for package in ("fedpurel_app", "fedpurel_demo"):
        names += [path.relative_to(PROJECT).as_posix() for path in (PROJECT / package).rglob("*.*")]
    return {name: PROJECT / name for name in names if name.endswith((".py", ".toml", ".json")) or "/" not in name}


def bundle():
    extra = {"notes.txt": b"mine", "fedpurel_app/photo.png": b"\x89PNG", "a.ipynb": b""}
    fab, _ = build_fab_from_files(files_of() | extra)
    return zipfile.ZipFile(io.BytesIO(fab)), len(fab)


def test_the_bundle_holds_both_packages_whatever_else_lies_in_the_folder():
    """In format 1: an app's licence is a file, and it names the Flower that it was tried with."""
    opened, size = bundle()
    expected = {name for name in files_of() if name != ".gitignore"}
    assert set(opened.namelist()) == expected | {".info/CONTENT"} and size < FAB_MAX_SIZE
    for info in opened.infolist():
        assert Path(info.filename).suffix in PUBLISHED or "." not in info.filename or info.filename[0] == "."
        assert info.file_size < 1_000_000, info.filename
    assert sum(info.file_size for info in opened.infolist()) < 10_000_000


def run_small(folder, out):
    """Run the default, small, in a process that has its packages from a folder alone; return the summary."""
    home = out.parent / "home"
    code = (
        "import sys; sys.meta_path = [one for one in sys.meta_path if '__editable__' not in str(one)]\n"
        "import fedpurel_app, fedpurel_demo\n"
        f"assert all(one.__file__.startswith({str(folder)!r}) for one in (fedpurel_app, fedpurel_demo))\n"
        "from fedpurel_app.data.shapes import rendered\n"
        "rendered.SHAPES_TEST = 2  # images a class: there are a hundred, which take a minute to encode\n"
        "settings = {'global-rounds': 1, 'personal-rounds': 1, 'max-per-class': 10}\n"
        f"fedpurel_app.run(settings, out={str(out)!r})\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHONPATH": str(folder), "FEDPUREL_HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", code], cwd=out.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((out / "summary.json").read_text())


@pytest.mark.slow
def test_the_default_runs_from_an_unpacked_bundle(tmp_path):
    opened, _ = bundle()
    opened.extractall(tmp_path / "app")
    summary = run_small(tmp_path / "app", tmp_path / "run")
    assert summary["outcome"] == "completed" and summary["zero_shot"]["all"] > 50


@pytest.mark.slow
def test_the_default_runs_from_a_wheel_that_is_installed_elsewhere(tmp_path):
    build = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*build, "--no-build-isolation", "--wheel-dir", tmp_path, PROJECT], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    install = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    subprocess.run([*install, "--target", tmp_path / "app", wheel], check=True)
    assert (tmp_path / "app" / "fedpurel_app" / "py.typed").is_file()
    summary = run_small(tmp_path / "app", tmp_path / "run")
    assert summary["outcome"] == "completed" and summary["zero_shot"]["all"] > 50
