"""``fedpurel data check``: which kind of data there is, counts by class and site, and all that is wrong."""

import json
import time

import datasets
import numpy as np
import pytest
from PIL import Image

from fedpurel_app.cli import main as cli
from fedpurel_app.data.sources.manifest import Manifest
from fedpurel_app.data.sources.manifest_rules import settle_classes
from tests.support import tiny_features, write_images


def check(capsys, path, *more):
    code = cli.main(["data", "check", str(path), "--json", *more])
    captured = capsys.readouterr()
    return code, json.loads(captured.out)


def text(capsys, path, *more):
    code = cli.main(["data", "check", str(path), *more])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def counts(found, split="train"):
    return {name: one[split] for name, one in found["classes"].items()}


def table(folder, rows, header="path,label,split,site"):
    """Write a table, and under each of its paths an image of its own colour."""
    for number, row in enumerate(rows):
        Image.new("RGB", (4, 6), (number % 256, number // 256, 0)).save(folder / row.split(",")[0])
    (folder / "all.csv").write_text("\n".join([header, *rows]))
    return folder / "all.csv"


ROWS = ["a.png,cat,train,x", "b.png,cat,train,y", "c.png,cat,val,y", "d.png,dog,train,x", "e.png,dog,train,x",
        "f.png,dog,train,y", "g.png,cat,test,x", "h.png,dog,test,y"]  # fmt: skip


def test_a_table_is_counted_by_class_and_site(tmp_path, capsys):
    code, found = check(capsys, table(tmp_path, ROWS))
    assert code == 0 and found["kind"] == "manifest" and not found["problems"]
    assert found["classes"] == {
        "cat": {"train": 2, "validation": 1, "test": 1, "group": "few", "sites": {"x": 1, "y": 1}},
        "dog": {"train": 3, "validation": 0, "test": 1, "group": "few", "sites": {"x": 2, "y": 1}},
    }
    assert found["sites"] == {
        "x": {"train": 3, "validation": 0, "test": 1, "classes": 2},
        "y": {"train": 2, "validation": 1, "test": 1, "classes": 2},
    }
    assert found["images"] == {"train": 5, "validation": 1, "test": 2}
    assert found["imbalance-factor"] == 1.5 and found["smallest-class"] == {"name": "cat", "train": 2}
    assert found["sample"] == {"images": 8, "modes": {"RGB": 8}, "width": [4, 4, 4], "height": [6, 6, 6]}


def test_what_is_printed_is_plain_text(tmp_path, capsys):
    code, out, _ = text(capsys, table(tmp_path, ROWS))
    assert code == 0 and "\x1b" not in out
    assert out.splitlines() == [
        "a table of images: 2 classes, 5 training, 1 validation, 2 test images",
        "",
        "class  group  train  val  test  at x  at y",
        "dog    Few        3    0     1     2     1",
        "cat    Few        2    1     1     1     1",
        "",
        "site  train  val  test  classes",
        "x         3    0     1        2",
        "y         2    1     1        2",
        "",
        "groups: 0 Many, 0 Medium, 2 Few (Many > 100, Medium > 20 training images)",
        "imbalance factor: 1.5, smallest class cat with 2 training images",
        "sample of 8 images: 8 RGB; width 4 to 4, median 4; height 6 to 6, median 6 pixels",
        "nothing is wrong",
    ]


def test_everything_that_is_wrong_with_a_table_is_said_beside_its_counts(tmp_path, capsys):
    rows = [*ROWS, "i.png,cat,test,x", "j.png,dog,train,y", "k.png,yak,test,z", "l.png,cat,train,x"]
    path = table(tmp_path, rows)
    (tmp_path / "i.png").write_bytes((tmp_path / "a.png").read_bytes())  # trained on as a.png
    (tmp_path / "j.png").write_bytes((tmp_path / "b.png").read_bytes())  # a cat, as b.png
    (tmp_path / "l.png").unlink()
    (tmp_path / "d.png").write_bytes(b"no image")
    code, found = check(capsys, path)
    assert code == 1 and counts(found) == {"cat": 3, "dog": 4, "yak": 0}
    expected = [
        "1 of 12 files do not exist: l.png (line 13)",
        "1 classes have no training image: yak",
        "1 sites have no training image: z",
        "1 of 11 images cannot be read",
        f"{tmp_path / 'd.png'} is not an image",
        "1 images are trained on and tested on: a.png (train) = i.png (test): leave each in one part",
        "1 images have more than one label: b.png (cat) = j.png (dog): decide on one",
    ]
    assert len(found["problems"]) == len(expected)
    for line in expected:
        assert any(problem.startswith(line) for problem in found["problems"]), line
    code, out, _ = text(capsys, path)
    assert code == 1 and "7 problems:" in out and all(f"  - {line}" in out for line in expected)


@pytest.mark.parametrize("path", ["x" * 300, "y/" * 3000, "a\0b.png"])
def test_what_could_be_no_files_name_is_a_file_that_does_not_exist(tmp_path, capsys, path):
    file = table(tmp_path, ROWS)
    file.write_text(file.read_text() + f"\n{path},cat,train,x")
    code, found = check(capsys, file)
    assert code == 1 and [line[:27] for line in found["problems"]] == ["1 of 9 files do not exist: "]


def test_a_table_of_which_no_row_can_be_used_has_no_labels_to_speak_of(tmp_path, capsys):
    file = table(tmp_path, [row.replace(",train", ",1").replace(",test", ",2").replace(",val", ",3") for row in ROWS])
    code, found = check(capsys, file)
    assert code == 1 and not found["classes"] and not [note for note in found["notes"] if "labels are" in note]


def test_a_label_for_each_row_takes_no_longer_than_another(tmp_path):
    """As a column of patients has that was taken for that of labels."""
    begun = time.process_time()
    assert settle_classes([str(one) for one in range(20_000)], (), "x")[1]["19999"] == 19_999
    assert settle_classes([f"p{one:05}" for one in range(20_000)], (), "x")[1]["p19999"] == 19_999
    assert time.process_time() - begun < 5


def test_a_table_is_gone_through_as_often_with_many_sites_as_with_few(tmp_path, capsys, monkeypatch):
    of, calls = Manifest.of, list[str]()

    def counted(found, split):
        calls.append(split)
        return of(found, split)

    monkeypatch.setattr(Manifest, "of", counted)
    counts_of_calls = []
    for sites in (2, 8):
        rows = [",".join([*row.split(",")[:3], f"s{number % sites}"]) for number, row in enumerate(ROWS)]
        calls.clear()
        check(capsys, table(tmp_path, rows))
        counts_of_calls.append(len(calls))
    assert counts_of_calls[0] == counts_of_calls[1]


def test_many_medium_and_few_are_told_by_training_images(tmp_path, capsys):
    sizes = {"head": 101, "body": 100, "edge": 21, "tail": 20}
    rows = [f"{name}{k}.png,{name},train" for name, size in sizes.items() for k in range(size)]
    rows += [f"{name}-t.png,{name},test" for name in sizes]
    code, found = check(capsys, table(tmp_path, rows, "path,label,split"))
    assert code == 0 and found["imbalance-factor"] == 5.05 and not found["sites"]
    assert {name: one["group"] for name, one in found["classes"].items()} == {
        "head": "many", "body": "medium", "edge": "medium", "tail": "few"}  # fmt: skip
    assert found["groups"] == {"by": "counts", "many": 1, "medium": 2, "few": 1}
    thirds = check(capsys, tmp_path / "all.csv", "--set", "group-by=terciles")[1]
    assert thirds["groups"] == {"by": "terciles", "many": 2, "medium": 1, "few": 1}


def test_columns_and_classes_are_settings(tmp_path, capsys):
    path = table(tmp_path, ["a.png,0,train", "b.png,1,train", "c.png,0,test", "d.png,1,test"], "file,dx,fold")
    code, _, err = text(capsys, path)
    assert code == 2 and 'has no column "path": name that of the path with path-column' in err
    keys = ("path-column=file", "label-column=dx", "split-column=fold", "classes=benign; malignant")
    code, found = check(capsys, path, *(word for key in keys for word in ("--set", key)))
    assert code == 0 and counts(found) == {"benign": 1, "malignant": 1}


def test_folders_with_parts(tmp_path, capsys):
    for part, sizes in (("train", {"cat": 3, "dog": 2}), ("test", {"cat": 1, "dog": 1})):
        first = 10 * len(part)  # of the shades of a part, which both classes have: pictures of cat and dog are alike
        write_images(tmp_path / part, {name: range(first, first + size) for name, size in sizes.items()})
    code, found = check(capsys, tmp_path)
    assert found["kind"] == "imagefolder" and counts(found) == {"cat": 3, "dog": 2}
    assert counts(found, "test") == {"cat": 1, "dog": 1}
    assert code == 1 and len(found["problems"]) == 1 and "3 images have more than one label" in found["problems"][0]


def test_folders_that_a_run_refuses_are_counted_all_the_same(tmp_path, capsys):
    write_images(tmp_path / "train", {"cat": range(3), "yak": range(10, 12)})
    write_images(tmp_path / "test", {"cat": range(20, 21)})
    code, found = check(capsys, tmp_path)
    assert code == 1 and counts(found) == {"cat": 3, "yak": 2} and counts(found, "test") == {"cat": 1, "yak": 0}
    assert "classes that are in train/ alone: yak" in found["problems"][0]


def test_a_sites_own_folder_is_held_out_from(tmp_path, capsys):
    write_images(tmp_path, {"cat": range(10), "dog": range(20, 22)})
    code, found = check(capsys, tmp_path)
    assert code == 0 and found["kind"] == "folder"
    assert counts(found) == {"cat": 8, "dog": 1} and counts(found, "test") == {"cat": 2, "dog": 1}
    assert "there is no test part: a fifth of every class is held out, by the run's seed" in found["notes"]


def test_a_folder_of_sites(tmp_path, capsys):
    write_images(tmp_path / "north", {"cat": range(5), "dog": range(20, 22)})
    for part, start in (("train", 40), ("test", 60)):
        write_images(tmp_path / "south" / part, {"dog": range(start, start + 3)})
    code, found = check(capsys, tmp_path)
    assert code == 0 and found["kind"] == "sites"
    assert found["sites"] == {
        "north": {"train": 5, "validation": 0, "test": 2, "classes": 2},
        "south": {"train": 3, "validation": 0, "test": 3, "classes": 1},
    }
    assert found["classes"]["dog"]["sites"] == {"north": 1, "south": 3}
    assert next(note for note in found["notes"] if "held out" in note).startswith("north: ")


def test_classes_with_folders_of_their_own_are_no_sites(tmp_path, capsys):
    for name, start in (("cat", 0), ("dog", 20)):
        write_images(tmp_path / name, {f"patient {name}": range(start, start + 5)})
    assert check(capsys, tmp_path)[1]["kind"] == "folder"


def test_parquet_with_images(tmp_path, capsys):
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    images = [Image.new("RGB", (4, 4), (10 * shade, 0, 0)) for shade in range(6)]
    for part, rows in (("train", range(4)), ("test", (0, 5))):
        cells = {"image": [images[row] for row in rows], "label": [row % 2 for row in rows]}
        datasets.Dataset.from_dict(cells, features=kinds).to_parquet(tmp_path / f"{part}.parquet")
    code, found = check(capsys, tmp_path)
    assert found["kind"] == "parquet" and counts(found) == {"cat": 2, "dog": 2}
    assert code == 1 and "1 images are trained on and tested on" in found["problems"][0]
    assert found["sample"]["modes"] == {"RGB": 6}


def test_features(tmp_path, capsys):
    path = tiny_features(tmp_path / "f.npz")
    with np.load(path) as file:
        arrays = dict(file)
    code, found = check(capsys, path)
    assert code == 0 and found["kind"] == "features" and found["groups"]["by"] == "terciles"
    assert list(counts(found).values()) == np.bincount(arrays["train_labels"]).tolist()
    assert found["sample"] is None
    wrong = {**arrays, "train_labels": arrays["train_labels"] + 100}
    np.savez(path, **wrong)
    code, found = check(capsys, path)
    assert code == 1 and any("label" in problem for problem in found["problems"])
    own = {name: value for name, value in arrays.items() if not name.startswith(("text", "test"))}
    np.savez(tmp_path / "own.npz", **own)
    code, found = check(capsys, tmp_path / "own.npz")
    assert code == 0 and found["kind"] == "own features" and sum(counts(found, "test").values()) > 0


@pytest.mark.parametrize(
    ("name", "more", "part"),
    [
        ("absent.csv", (), "no such file or folder"),
        ("x.txt", (), "is a file of no kind that is known"),
        ("", (), "holds no image in a folder"),
        (
            "x.csv",
            ("--set", "num-sites=3"),
            "data check has no use for num-sites: of the settings it takes",
        ),
        ("x.csv", ("--set", "seed=x"), 'seed = "x": should be a valid integer'),
        ("f.npz", ("--set", "site-column=centre"), "tell how a table of images is read, and"),
    ],
)
def test_what_cannot_be_looked_at_is_bad_input(tmp_path, capsys, name, more, part):
    (tmp_path / "x.txt").touch()
    (tmp_path / "x.csv").write_text("path,label\nx,cat\n")
    tiny_features(tmp_path / "f.npz")
    code, out, err = text(capsys, tmp_path / name, *more)
    assert code == 2 and not out and part in err
