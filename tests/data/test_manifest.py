"""A table of images: what its cells mean, and that everything that is wrong with it is named at once."""

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from fedpurel_app.core.errors import DataError
from fedpurel_app.data.sources.inspection import look_at
from fedpurel_app.data.sources.manifest import load_manifest
from fedpurel_app.data.sources.manifest_rows import Form
from fedpurel_app.data.sources.own import load_own
from fedpurel_app.data.sources.source import Centres
from fedpurel_app.data.sources.subsets import on_validation

HEADER = "path,label,split,site"
ROWS = [
    "a.png,cat,train,north",
    "b.png,cat,train,south",
    "c.png,dog,train,north",
    "d.png,dog,train,south",
    "e.png,cat,test,north",
    "f.png,dog,test,south",
]


def write(folder, rows=ROWS, header=HEADER, name="all.csv", encoding="utf-8", end="\n", make=True):
    """Write a table, and an image of its own shade for every path in its first column."""
    path = folder / name
    path.write_bytes((end.join([header, *rows]) + end).encode(encoding))
    for shade, row in enumerate(rows if make else []):
        image = folder / row.split(",")[0].strip(' "')
        if not image.exists():
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (shade, 0, 0)).save(image)
    return path


def load(path, /, **form):
    return load_manifest(str(path), 0, Form(**form))


def problems(path, /, **form):
    with pytest.raises(DataError) as caught:
        load(path, **form)
    return str(caught.value)


def shades(split):
    return [image.getpixel((0, 0))[0] for image in split.images(np.arange(len(split.labels)))]


def has_centres(source) -> Centres:
    assert source.centres is not None
    return source.centres


def test_rows_are_dealt_to_their_splits_classes_and_sites(tmp_path):
    source = load(write(tmp_path), natural=True)
    assert source.class_names == ("cat", "dog")
    assert source.train.labels.tolist() == [0, 0, 1, 1] and shades(source.train) == [0, 1, 2, 3]
    assert source.test.labels.tolist() == [0, 1] and shades(source.test) == [4, 5]
    centres = has_centres(source)
    assert centres.names == ("north", "south")
    assert centres.train.tolist() == [0, 1, 0, 1] and centres.test.tolist() == [0, 1]
    assert source.notes == ()


@pytest.mark.parametrize(
    ("encoding", "end", "header", "rows"),
    [
        ("utf-8-sig", "\n", HEADER, ROWS),
        ("utf-8", "\r\n", HEADER, ROWS),
        ("utf-8", "\n", " Path , LABEL ,Split,Site", [row.replace(",", " , ") for row in ROWS]),
        ("utf-8", "\n", HEADER, ['"' + row.replace(",", '","') + '"' for row in ROWS]),
        ("utf-8", "\n", HEADER, [ROWS[0], "", *ROWS[1:], ",,,"]),
    ],
    ids=["byte order mark", "CRLF", "spaces and case", "quotes", "empty lines"],
)
def test_ways_of_writing_a_table_are_one(tmp_path, encoding, end, header, rows):
    plain = load(write(tmp_path))
    other = load(write(tmp_path, rows, header, "other.csv", encoding, end, make=False))
    assert other.train.fingerprint == plain.train.fingerprint and other.class_names == plain.class_names
    assert has_centres(other).test.tolist() == has_centres(plain).test.tolist()


@pytest.mark.parametrize(("mark", "name"), [(";", "x.csv"), ("\t", "x.csv"), ("\t", "x.tsv")])
def test_cells_may_be_parted_by_semicolons_and_tabs(tmp_path, mark, name):
    plain = load(write(tmp_path))
    text = (tmp_path / "all.csv").read_text().replace(",", mark)
    (tmp_path / name).write_text(text)
    assert load(tmp_path / name).train.fingerprint == plain.train.fingerprint


def test_a_quoted_comma_belongs_to_its_cell(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "g.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "h, 2.png")
    rows = [*ROWS, 'g.png,"bear, polar",train,north', '"h, 2.png","bear, polar",test,north']
    path = tmp_path / "all.csv"
    write(tmp_path)
    path.write_text("\n".join([HEADER, *rows]))
    source = load(path)
    assert source.class_names == ("bear, polar", "cat", "dog") and source.test.labels.tolist() == [1, 2, 0]


def test_columns_of_any_name_in_any_order(tmp_path):
    write(tmp_path)
    rows = [",".join(["x", *reversed(row.split(","))]) for row in ROWS]
    path = write(tmp_path, rows, "age,centre,fold,diagnosis,file", "other.csv", make=False)
    source = load(path, path="file", label="diagnosis", split="fold", site="centre", natural=True)
    assert source.train.labels.tolist() == [0, 0, 1, 1] and has_centres(source).names == ("north", "south")


@pytest.mark.parametrize("number", [pa.int64(), pa.float64(), pa.string()])
def test_parquet_is_read_as_csv_is(tmp_path, number):
    """pandas makes floats of whole numbers where one is missing elsewhere: 1.0 is the class 1."""
    plain = load(write(tmp_path), classes=("cat", "dog"))
    cells = list(zip(*(row.split(",") for row in ROWS), strict=True))
    labels = pa.array([["cat", "dog"].index(name) for name in cells[1]]).cast(number)
    table = pa.table({"path": cells[0], "label": labels, "split": cells[2], "site": cells[3]})
    parquet.write_table(table, tmp_path / "all.parquet")
    found = load(tmp_path / "all.parquet", classes=("cat", "dog"))
    assert found.train.labels.tolist() == plain.train.labels.tolist()
    assert found.train.fingerprint == plain.train.fingerprint


# --- labels -----------------------------------------------------------------------------------------------------------


def labelled(folder, labels):
    """Write two images of each label to train on and one to test on."""
    rows = [f"{number}.png,{label},{split}," for number, (label, split) in enumerate(
        (label, split) for label in labels for split in ("train", "train", "test"))]  # fmt: skip
    return write(folder, [row.rstrip(",") for row in rows], "path,label,split")


def test_classes_are_in_alphabetical_order_and_numbers_by_size(tmp_path):
    assert load(labelled(tmp_path, ["zebra", "ant", "cat"])).class_names == ("ant", "cat", "zebra")
    source = load(labelled(tmp_path, ["10", "9", "2"]))
    assert source.class_names == ("2", "9", "10") and source.test.labels.tolist() == [2, 1, 0]
    assert "labels are numbers (2, 9, 10), which tell CLIP nothing" in source.notes[0]


def test_classes_of_the_settings_name_numbers_and_put_names_in_their_order(tmp_path):
    path = labelled(tmp_path, ["1", "0"])
    source = load(path, classes=("benign", "malignant"))
    assert source.class_names == ("benign", "malignant") and source.test.labels.tolist() == [1, 0]
    assert not source.notes
    source = load(labelled(tmp_path, ["Cat", "ant"]), classes=("cat", "ant"))
    assert source.class_names == ("cat", "ant") and source.test.labels.tolist() == [0, 1]


def test_labels_beyond_the_classes_of_the_settings_are_named(tmp_path):
    text = problems(labelled(tmp_path, ["0", "2"]), classes=("benign", "malignant"))
    assert "labels are no class of `classes`: 0, 2; it names benign, malignant, or 0 to 1" in text
    text = problems(labelled(tmp_path, ["cat", "yak"]), classes=("cat", "dog"))
    assert "labels are no class of `classes`: yak; it names cat, dog." in text


def test_a_class_of_the_settings_without_an_image_is_named(tmp_path):
    text = problems(labelled(tmp_path, ["cat", "dog"]), classes=("cat", "dog", "yak"))
    assert "1 classes have no training image: yak" in text


def test_labels_that_differ_in_case_alone_are_refused(tmp_path):
    assert "differ by no more than case" in problems(labelled(tmp_path, ["cat", "Cat"]))


def test_a_composed_and_a_decomposed_accent_are_one_class(tmp_path):
    source = load(labelled(tmp_path, ["caf\u00e9", "cafe\u0301", "tea"]))
    assert source.class_names == ("caf\u00e9", "tea") and source.test.labels.tolist() == [0, 0, 1]


# --- splits -----------------------------------------------------------------------------------------------------------


def test_words_for_splits(tmp_path):
    words = ["Training", "TRAIN", "train", "train", "Testing", "test"]
    rows = [f"{row.split(',')[0]},{row.split(',')[1]},{word}" for row, word in zip(ROWS, words, strict=True)]
    assert load(write(tmp_path, rows, "path,label,split")).train.labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("word", ["val", "Validation", "dev", "valid", "development"])
def test_validation_rows_are_for_choosing_settings(tmp_path, word):
    source = load(write(tmp_path, [*ROWS, f"v.png,dog,{word},south"]), natural=True)
    assert len(source.train.labels) == 4 and shades(source.test) == [4, 5]
    assert source.notes == ('1 rows of split validation are not trained on; evaluate-on = "validation" scores on them',)
    chosen = on_validation(source)
    assert shades(chosen.test) == [6] and has_centres(chosen).test.tolist() == [1]
    assert len(chosen.train.labels) == 4


def test_a_quarter_of_the_training_rows_is_for_choosing_where_there_are_no_validation_rows(tmp_path):
    splits = ["train"] * 8 + ["test"]
    rows = [f"{site}{number}.png,cat,{split},{site}" for site in "ab" for number, split in enumerate(splits)]
    source = load(write(tmp_path, rows), natural=True)
    chosen = on_validation(source)
    assert len(chosen.test.labels) == 4 and len(chosen.train.labels) == 12  # of 16
    centres = has_centres(chosen)
    shown = [shades(source.train)[:8], shades(source.train)[8:]]  # of sites a and b
    for split, sites in ((chosen.train, centres.train), (chosen.test, centres.test)):
        assert all(shade in shown[site] for shade, site in zip(shades(split), sites, strict=True))


def test_without_test_rows_those_of_validation_are_tested_on(tmp_path):
    source = load(write(tmp_path, [row.replace("test", "val") for row in ROWS]))
    assert shades(source.test) == [4, 5] and source.validation is None
    assert "those of validation are the test part" in source.notes[0]


def test_without_a_split_a_fifth_of_every_class_at_every_site_is_held_out_by_seed(tmp_path):
    """Of 10 and 5 images 2 and 1, of 2 and 3 one, of a single one none."""
    sizes = {("a", "cat"): 10, ("a", "dog"): 2, ("b", "cat"): 5, ("b", "dog"): 3, ("b", "yak"): 1}
    rows = [f"{site}-{name}-{k}.png,{name},{site}" for (site, name), count in sizes.items() for k in range(count)]
    path = write(tmp_path, rows, "path,label,site")
    source = load(path, natural=True, seed=5)
    centres, tested = has_centres(source), dict[tuple[str, str], int]()
    for label, site in zip(source.test.labels, centres.test, strict=True):
        key = centres.names[site], source.class_names[label]
        tested[key] = tested.get(key, 0) + 1
    assert tested == {("a", "cat"): 2, ("a", "dog"): 1, ("b", "cat"): 1, ("b", "dog"): 1}
    assert len(source.train.labels) + len(source.test.labels) == 21
    assert source.notes == (
        'no column "split": 20% of every class at every site is held out to test on, at least one of two images, by '
        "the run's seed",
        "1 classes have no test image, and no accuracy: yak",
    )
    assert shades(load(path, seed=5).test) == shades(source.test) != shades(load(path, seed=6).test)


# --- a site's own -----------------------------------------------------------------------------------------------------


def test_a_site_takes_its_rows_of_the_whole_table_or_all_of_its_own(tmp_path):
    path = write(tmp_path)
    whole = load_own(str(path), ("cat", "dog"), 0, Form(), "south")
    assert shades(whole.train) == [1, 3] and shades(whole.test) == [5]
    cut = tmp_path / "south.csv"
    cut.write_text("\n".join(["path,label,split", *(row.rpartition(",")[0] for row in ROWS if "south" in row)]))
    own = load_own(str(cut), ("cat", "dog"), 0, Form(), "south")
    assert own.train.fingerprint == whole.train.fingerprint and own.test.fingerprint == whole.test.fingerprint
    with pytest.raises(DataError, match=r'no row of site "east" in column "site", but of north, south: name the node'):
        load_own(str(path), ("cat", "dog"), 0, Form(), "east")


def test_a_site_holds_out_the_images_that_the_simulation_holds_out_there(tmp_path):
    rows = [f"{site}{number}.png,{'cat' if number % 2 else 'dog'},{site}" for site in "ab" for number in range(20)]
    path = write(tmp_path, rows, "path,label,site")
    simulated = load(path, natural=True, seed=3)
    at_b = [shade for shade, site in zip(shades(simulated.test), has_centres(simulated).test, strict=True) if site]
    assert shades(load_own(str(path), ("cat", "dog"), 3, Form(), "b").test) == at_b and len(at_b) == 4


def test_a_site_may_lack_classes_and_none_may_be_foreign(tmp_path):
    rows = [row for row in ROWS if ",cat," in row]
    own = load_own(str(write(tmp_path, rows)), ("dog", "cat"), 0, Form())
    assert own.class_names == ("dog", "cat") and own.train.labels.tolist() == [1, 1]
    with pytest.raises(DataError, match="no class of `classes`: cat; it names dog, yak"):
        load_own(str(tmp_path / "all.csv"), ("dog", "yak"), 0, Form())


def test_a_parquet_table_of_paths_is_no_parquet_of_images(tmp_path):
    write(tmp_path)
    cells = dict(zip(("path", "label", "split"), zip(*(row.split(",")[:3] for row in ROWS), strict=True), strict=True))
    parquet.write_table(pa.table(cells), tmp_path / "own.parquet")
    assert shades(load_own(str(tmp_path / "own.parquet"), ("cat", "dog"), 0).train) == [0, 1, 2, 3]


# --- paths ------------------------------------------------------------------------------------------------------------


def test_paths_begin_at_the_table_or_at_the_root_and_may_be_absolute(tmp_path):
    (tmp_path / "images").mkdir()
    write(tmp_path / "images")
    moved = tmp_path / "tables"
    moved.mkdir()
    path = write(moved, make=False)
    assert "6 of 6 files do not exist: a.png (line 2)" in problems(path)
    assert shades(load(path, root=str(tmp_path / "images")).train) == [0, 1, 2, 3]
    write(moved, [f"{tmp_path / 'images' / row}" for row in ROWS], make=False)
    assert shades(load(path).train) == [0, 1, 2, 3]


def test_relative_paths_do_not_lead_out_of_the_root(tmp_path):
    (tmp_path / "in").mkdir()
    write(tmp_path)
    rows = [ROWS[0].replace("a.png", "../a.png"), ROWS[1].replace("b.png", "x/../../b.png"), *ROWS[2:]]
    write(tmp_path / "in", ROWS)
    text = problems(write(tmp_path / "in", rows, make=False))
    assert "2 relative paths lead out of" in text and "../a.png, x/../../b.png; line 2, line 3" in text
    assert "set image-root" in text
    inside = [ROWS[0].replace("a.png", "x/../a.png"), *ROWS[1:]]
    (tmp_path / "in" / "x").mkdir()
    assert shades(load(write(tmp_path / "in", inside, make=False)).train) == [0, 1, 2, 3]


def test_images_that_cannot_be_read_are_named(tmp_path):
    path = write(tmp_path)
    (tmp_path / "b.png").write_bytes(b"no image")
    (tmp_path / "f.png").write_bytes(b"")
    with pytest.raises(DataError, match="2 of 6 images cannot be read") as caught:
        look_at(load(path))
    assert "b.png is not an image" in str(caught.value) and "f.png cannot be read as an image (it is empty)" in str(
        caught.value
    )


# --- everything that is wrong -----------------------------------------------------------------------------------------


def test_all_problems_are_named_at_once(tmp_path):
    rows = [
        *ROWS,  # lines 2 to 7
        "a.png,dog,train,north",  # two labels
        "b.png,cat,test,south",  # trained and tested on
        "c.png,dog,train,south",  # two sites
        "d.png,dog,train,south",  # twice
        "./e.png,cat,test,north",  # twice, written otherwise
        "g.png,,train,north",
        "h.png,cat,holdout,north",
        "i.png,cat,train,",
        "j.png,yak,test,north",
        "missing.png,cat,train,north",
        "k.png,cat,train,north,more",
    ]
    path = write(tmp_path, rows)
    (tmp_path / "missing.png").unlink()
    text = problems(path, natural=True)
    expected = [
        "1 rows have not 4 cells, as the header has (line 18 has 5 cells)",
        '1 of 16 rows have no label in column "label" (line 13)',
        '1 of 16 rows have no site in column "site" (line 15)',
        '1 rows are of split "holdout" (line 14): write one of train, training, validation',
        "1 of 16 files do not exist: missing.png (line 17)",
        "1 images have more than one label: a.png (line 2, line 8)",
        "1 images are in more than one split: b.png (line 3, line 9): what is tested on must not be trained on",
        "1 images are at more than one site: c.png (line 4, line 10)",
        "2 images stand in it more than once: d.png (line 5, line 11), e.png (line 6, line 12)",
        "1 classes have no training image: yak",
    ]
    for line in expected:
        assert f"\n  - {line}" in text
    assert text.startswith(f"{path}: ") and len(text.splitlines()) == 1 + len(expected)


@pytest.mark.parametrize(
    ("site", "part"),
    [
        ("H\u00f4pital", 'cannot be used ("H\u00f4pital")'),
        ("../x", 'cannot be used ("../x")'),
        ("clinic b", 'cannot be used ("clinic b")'),
        ("North", "sites differ by no more than case and underscores (North = north)"),
    ],
)
def test_sites_that_can_be_no_names_are_refused(tmp_path, site, part):
    rows = [*ROWS, f"x.png,cat,train,{site}", f"y.png,cat,test,{site}"]
    assert part in problems(write(tmp_path, rows), natural=True)
    assert len(load(tmp_path / "all.csv").train.labels) == 5, "where sites are not gone by, it does not matter"


def test_a_site_that_cannot_take_part_is_named(tmp_path):
    text = problems(write(tmp_path, [*ROWS, "x.png,cat,train,east", "y.png,cat,test,west"]), natural=True)
    assert "1 sites have no training image: west" in text and "1 sites have no test image: east" in text


@pytest.mark.parametrize(
    ("content", "form", "part"),
    [
        (b"", {}, 'has no column "path": name that of the path with path-column'),
        (b"path,label\n", {}, "has no row below its header"),
        (b"file,label\nx,cat\n", {}, 'Its columns are "file", "label"'),
        (b"path,label,label\nx,a,b\n", {}, "has two columns of the name label"),
        (b"path,label\nx,cat\n", {"split": "fold"}, 'has no column "fold": name that of the split with split-column'),
        (b"path,label\nx,cat\n", {"natural": True}, 'has no column "site"'),
        (b'path,label\nx,"cat\n', {}, "not a line of CSV (unexpected end of data)"),
        ("path,label\nx,caf\u00e9\n".encode("latin-1"), {}, "is not in UTF-8 (byte 16)"),
        ("path,label\nx,cat\n".encode("utf-16"), {}, "is not in UTF-8 (byte 0)"),
    ],
)
def test_what_is_no_table_is_refused_with_what_to_do(tmp_path, content, form, part):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    assert part in problems(path, **form)


def test_other_files_are_no_tables(tmp_path):
    (tmp_path / "t.xlsx").touch()
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    assert 'ends in ".xlsx", not in .csv, .tsv, .parquet' in problems(tmp_path / "t.xlsx")
    assert "is not a readable parquet file" in problems(tmp_path / "t.parquet")
    assert "no such file" in problems(tmp_path / "absent.csv")
    assert "no such file" in problems(tmp_path)
