"""Commands under a limit of memory: an error with words, and no traceback."""

import io
import resource
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from tests.support import tiny_features


def limited(gigabytes, *arguments):
    """Call the command with so much address space."""

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (int(gigabytes * 2**30),) * 2)

    command = [sys.executable, "-m", "fedpurel_app.cli.main", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, timeout=100)
    return result.returncode, result.stderr


def bomb(path, rows):
    """Make a feature file whose array unpacks to far more than it takes on the disk."""
    tiny_features(path, classes=2, per_class=2)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name != "train_features"}
    np.savez(path, **arrays)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (rows, 8)})
        archive.writestr("train_features.npy", header.getvalue() + bytes(1000))
    return path


@pytest.mark.skipif(sys.platform == "darwin", reason="has no limit of address space")
def test_a_feature_file_that_does_not_fit_into_memory_is_named(tmp_path):
    path = bomb(tmp_path / "features.npz", 10**9)
    settings = ["--set", "dataset=features", "--set", f"dataset-path={path}", "--set", "peft=adapter"]
    code, said = limited(8, "run", *settings, "--out", tmp_path / "run")
    assert code == 2 and "Traceback" not in said
    assert f'dataset-path = "{path}": its arrays do not fit into memory (Unable to allocate 29.8 GiB' in said


@pytest.mark.skipif(sys.platform == "darwin", reason="has no limit of address space")
def test_too_little_memory_to_load_the_libraries_is_told(tmp_path):
    code, said = limited(1, "doctor")
    assert code == 1 and "Traceback" not in said and "too little memory" in said
