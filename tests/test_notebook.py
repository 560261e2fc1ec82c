"""examples/notebook.ipynb runs as it stands, and its stored outputs are what it prints."""

import re
from pathlib import Path

import pytest

PATH = Path(__file__).parent.parent / "examples" / "notebook.ipynb"


def read():
    import nbformat

    return nbformat.read(PATH, 4)


def table(notebook):
    """Read the printed accuracies by model."""
    text = "".join(str(one.get("text", "")) for cell in notebook.cells for one in cell.get("outputs", []))
    rows = re.findall(r"^(zero-shot|FedAvg|FedPuReL|FedPuReL, personalized) +([\d.]+) +([\d.]+) +([\d.]+)$", text, re.M)
    return {name: [float(value) for value in values] for name, *values in rows}


def test_it_is_stored_with_its_outputs_and_names_no_place():
    notebook = read()
    kinds = [one["output_type"] for cell in notebook.cells for one in cell.get("outputs", [])]
    assert len(notebook.cells) <= 10 and kinds.count("display_data") >= 4 and "error" not in kinds
    assert set(table(notebook)) == {"zero-shot", "FedAvg", "FedPuReL", "FedPuReL, personalized"}
    text = PATH.read_text("utf-8")
    assert not re.search(r"/(tmp|home|root|work)/", text)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_it_runs_with_the_numbers_that_it_is_stored_with(tmp_path, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("FEDPUREL_HOME", str(tmp_path / "home"))
    stored, notebook = table(read()), read()
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    found = table(notebook)
    for name, values in stored.items():
        assert found[name] == pytest.approx(values, abs=1.5), name
    assert found["FedPuReL"][2] > found["FedAvg"][2] + 2
