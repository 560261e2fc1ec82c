"""DICOM images that pydicom writes, with pixels worked out by hand."""

import io
import sys

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian as Plain
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, RLELossless, SecondaryCaptureImageStorage, generate_uid

from fedpurel_app.core.errors import DataError
from fedpurel_app.data.sources.folders import load_imagefolder
from fedpurel_app.data.sources.inspection import look_at
from fedpurel_app.data.sources.manifest import load_manifest
from fedpurel_app.data.sources.opening import fault_of, open_image


def image(values, kind="MONOCHROME2", bits=16, syntax=Plain, **facts) -> Dataset:
    """Make an image of one row, or of frames of one row, or of colours; 16-bit values may be signed."""
    array = np.asarray(values)
    colours = 3 if kind.startswith(("RGB", "YBR")) else 1
    pixels = array.reshape(-1, array.shape[-2] if colours == 3 else array.shape[-1], colours)
    one = Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = syntax
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = SecondaryCaptureImageStorage
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = generate_uid()
    one.PhotometricInterpretation, one.SamplesPerPixel = kind, colours
    one.Rows, one.Columns = 1, pixels.shape[1]
    one.BitsAllocated = 8 if bits <= 8 else 16
    one.BitsStored, one.HighBit = bits, bits - 1
    one.PixelRepresentation = int(array.min() < 0)
    if colours == 3:
        one.PlanarConfiguration = 0
    if array.ndim > 1 and colours == 1:
        one.NumberOfFrames = len(array)
    kinds = {8: np.uint8, 16: np.int16 if array.min() < 0 else np.uint16}
    one.PixelData = pixels.astype(kinds[one.BitsAllocated]).tobytes()
    one["PixelData"].VR = "OW" if bits > 8 else "OB"
    for name, value in facts.items():
        setattr(one, name, value)
    return one


def content(one: Dataset) -> bytes:
    stream = io.BytesIO()
    one.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def grey(one: Dataset) -> list[int]:
    """Open an image of greys and return its row."""
    found = open_image(content(one))
    pixels = np.asarray(found)
    assert found.mode == "RGB" and (pixels == pixels[..., :1]).all()
    return pixels[0, :, 0].tolist()


# Soft tissue: centre 40, width 400. PS3.3, C.11.2.1.2.1: ((x - 39.5) / 399 + 0.5) * 255, at most 255 and at least 0.
HU = [-1024, -160, 40, 100, 239, 1000]
SHOWN = [0, 0, 128, 166, 255, 255]  # ... 0.5013 * 255 = 127.8, 0.6516 * 255 = 166.2 ...
CT = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 400}


def test_a_window_is_applied_to_rescaled_values():
    assert grey(image([value + 1024 for value in HU], bits=12, **CT)) == SHOWN


def test_a_slope_is_applied_before_the_window():
    assert grey(image([(value + 1024) * 2 for value in HU], bits=13, **(CT | {"RescaleSlope": 0.5}))) == SHOWN


def test_signed_values_need_no_rescaling():
    assert grey(image(HU, WindowCenter=40, WindowWidth=400)) == SHOWN


def test_of_several_windows_the_first_is_applied():
    windows = {"WindowCenter": [40, 400], "WindowWidth": [400, 1800]}
    assert grey(image(HU, **windows)) == SHOWN


def test_monochrome1_is_inverted():
    assert grey(image(HU, "MONOCHROME1", WindowCenter=40, WindowWidth=400)) == [255 - value for value in SHOWN]
    assert grey(image([100, 300, 500], "MONOCHROME1")) == [255, 127, 0]


def test_without_a_window_the_smallest_and_the_largest_value_are_black_and_white():
    assert grey(image([100, 300, 500])) == [0, 128, 255]  # 127.5 is rounded up
    assert grey(image([-100, 0, 100])) == [0, 128, 255]
    assert grey(image([7, 7])) == [0, 0]


def test_a_sigmoid_window():
    """PS3.3, C.11.2.1.3.1: 255 / (1 + exp(-4 (x - 100) / 40)): at 110 it is 255 / (1 + 1 / e) = 186.4."""
    facts = {"WindowCenter": 100, "WindowWidth": 40, "VOILUTFunction": "SIGMOID"}
    assert grey(image([0, 100, 110, 4000], bits=12, **facts)) == [0, 128, 186, 255]


def test_an_exact_linear_window():
    """PS3.3, C.11.2.1.3.2: ((x - 100) / 40 + 0.5) * 255."""
    facts = {"WindowCenter": 100, "WindowWidth": 40, "VOILUTFunction": "LINEAR_EXACT"}
    assert grey(image([80, 100, 110, 120], bits=12, **facts)) == [0, 128, 191, 255]


def table(entries, bits, first=0) -> Dataset:
    found = Dataset()
    found.LUTDescriptor = [len(entries), first, bits]
    found["LUTDescriptor"].VR = "US"
    found.LUTData = entries
    found["LUTData"].VR = "US"
    return found


def test_a_voi_table_comes_before_a_window():
    """Of 10 bits: 1023 is white, 511 is 127.4 of 255."""
    facts = {"VOILUTSequence": [table([0, 1023, 511, 0], 10)], "WindowCenter": 2, "WindowWidth": 2}
    assert grey(image([0, 1, 2, 3], **facts)) == [0, 255, 127, 0]


def test_a_modality_table_is_looked_up():
    facts = {"ModalityLUTSequence": [table([0, 400, 100], 16)]}
    facts["ModalityLUTSequence"][0].ModalityLUTType = "US"
    assert grey(image([0, 1, 2], **facts)) == [0, 255, 64]  # 100 / 400 * 255 = 63.75


@pytest.mark.parametrize(("frames", "taken"), [(1, 0), (2, 1), (3, 1), (4, 2)])
def test_of_several_frames_the_one_in_the_middle_is_taken(frames, taken):
    values = [[10 * number, 0] for number in range(frames)]
    assert grey(image(values, bits=8, WindowCenter=128, WindowWidth=256)) == [10 * taken, 0]


def test_an_enhanced_image_says_for_every_frame_how_it_is_shown():
    """Stored are HU + 1024 at the middle frame; at the others another intercept and window."""

    def shown(intercept, centre, width):
        frame, pixel, window = Dataset(), Dataset(), Dataset()
        pixel.RescaleSlope, pixel.RescaleIntercept = 1, intercept
        window.WindowCenter, window.WindowWidth = centre, width
        frame.PixelValueTransformationSequence, frame.FrameVOILUTSequence = [pixel], [window]
        return frame

    stored = [value + 1024 for value in HU]
    frames = [shown(0, 500, 100), shown(-1024, 40, 400), shown(0, 500, 100)]
    assert grey(image([stored] * 3, bits=12, PerFrameFunctionalGroupsSequence=frames)) == SHOWN
    assert grey(image([stored] * 3, bits=12, SharedFunctionalGroupsSequence=[frames[1]])) == SHOWN


def test_colours_keep_their_bits():
    colours = [(255, 0, 0), (1, 2, 3)]
    assert np.asarray(open_image(content(image(colours, "RGB", 8))))[0].tolist() == [[255, 0, 0], [1, 2, 3]]


def test_colours_of_16_bits_become_their_upper_8():
    found = open_image(content(image([(0xFFFF, 0x0100, 0x00FF)], "RGB", 16)))
    assert found.getpixel((0, 0)) == (255, 1, 0)


def test_luminance_and_chrominance_become_colours():
    """R = Y + 1.402 (Cr - 128) = 254, G = Y - 0.344 (Cb - 128) - 0.714 (Cr - 128) = 0.1, B = Y + 1.772 (Cb - 128)."""
    found = np.asarray(open_image(content(image([(76, 85, 255), (128, 128, 128)], "YBR_FULL", 8))))[0].astype(int)
    assert np.abs(found - [[254, 0, 0], [128, 128, 128]]).max() <= 1


def test_a_palette_is_looked_up():
    facts: dict[str, object] = {}
    for name, entries in (("Red", [0, 0xFFFF]), ("Green", [0x8000, 0]), ("Blue", [0, 0x0200])):
        facts[f"{name}PaletteColorLookupTableDescriptor"] = [2, 0, 16]
        facts[f"{name}PaletteColorLookupTableData"] = np.array(entries, "<u2").tobytes()
    found = open_image(content(image([0, 1], "PALETTE COLOR", 8, **facts)))
    assert [found.getpixel((x, 0)) for x in (0, 1)] == [(0, 128, 0), (255, 0, 2)]


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_images_are_decoded(syntax):
    one = image([value + 1024 for value in HU] * 4, bits=12, **CT)
    if syntax == RLELossless:
        one.compress(RLELossless)
    else:
        from PIL import Image

        stream = io.BytesIO()
        values = np.frombuffer(one.PixelData, np.uint16).reshape(1, -1)
        Image.fromarray(values).save(stream, "JPEG2000", no_jp2=True)
        one.PixelData = encapsulate([stream.getvalue()])
        one.file_meta.TransferSyntaxUID = syntax
        one["PixelData"].VR = "OB"
        one.BitsStored, one.HighBit = 16, 15
    assert grey(one) == SHOWN * 4


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.dcm", "x.DICOM", "IM0001", "1.2.840.113619"])
def test_files_are_known_by_their_ending_or_without_one_by_their_content(tmp_path, name):
    (tmp_path / name).write_bytes(content(image(HU, WindowCenter=40, WindowWidth=400)))
    assert np.asarray(open_image(tmp_path / name))[0, :, 0].tolist() == SHOWN
    assert fault_of(tmp_path / name) == ""


def without(one, *names):
    for name in names:
        delattr(one, name)
    return content(one)


def lossless_jpeg():
    one = image([1, 2], bits=8, syntax=JPEGLosslessSV1)
    one.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
    return content(one)


REFUSED = {  # the content, why it is refused, and whether its header says it
    "text": (b"no image", "DICOM", True),
    "empty": (b"", "it is empty", True),
    "a report": (without(image([1]), "Rows", "Columns"), "DICOM without an image: no Rows, Columns", True),
    "no pixels": (without(image([1]), "PixelData"), r"no pixel data \(PixelData\)", False),
    "a strange kind": (content(image([1], "HSV")), "photometric interpretation HSV is not read, but MONOCHROME1", True),
    "a compression": (lossless_jpeg(), "its compression, JPEG Lossless.*, needs another package", True),
    "too many pixels": (
        content(image([1], Rows=30_000, Columns=30_000)),
        "too large to be read .900000000 pixels",
        True,
    ),
    "cut": (content(image(list(range(100))))[:-50], "cannot be read as an image", False),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_read_is_named_with_its_reason(tmp_path, what):
    written, reason, by_header = REFUSED[what]
    path = tmp_path / "x.dcm"
    path.write_bytes(written)
    with pytest.raises(DataError, match=f"x\\.dcm .*{reason}"):
        open_image(path)
    assert fault_of(path).startswith(str(path)) == by_header


@pytest.fixture
def folder(tmp_path):
    for part, name, value in [("train", "ill", 10), ("train", "well", 200), ("test", "ill", 10), ("test", "well", 200)]:
        place = tmp_path / part / name
        place.mkdir(parents=True)
        one = image([value, 0], bits=8, WindowCenter=128, WindowWidth=256)
        (place / "x.dcm").write_bytes(content(one))
    return tmp_path


def test_folders_and_tables_take_dicom_as_any_image(folder):
    source = load_imagefolder(str(folder), 0)
    look_at(source)
    (folder / "t.csv").write_text(
        "path,label,split\ntrain/ill/x.dcm,ill,train\ntest/ill/x.dcm,ill,test\ntrain/well/x.dcm,well,train\n"
    )
    for one, count in ((source, 2), (load_manifest(str(folder / "t.csv")), 1)):
        images = one.test.images(np.arange(count))
        assert [found.getpixel((0, 0)) for found in images] == [(10,) * 3, (200,) * 3][:count]


def test_without_pydicom_it_is_said_once_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(DataError) as caught:
        look_at(load_imagefolder(str(folder), 0))
    assert str(caught.value) == 'DICOM images need pydicom: pip install "fedpurel-app[dicom]".'
    with pytest.raises(DataError, match="pip install"):
        open_image(content(image([1])))
