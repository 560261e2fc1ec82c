"""Every door that an image comes in by: a folder, parquet, the hub's form, and ``fedpurel predict``."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from fedpurel_app.core.errors import DataError
from fedpurel_app.data.sources.opening import fault_of, open_image


def picture(size=(60, 40)):
    """Make an image with no two equal rows or columns."""
    width, height = size
    shade = np.add.outer(np.arange(height), 2 * np.arange(width))
    return Image.fromarray(np.stack([shade, shade + 40, shade + 80], -1).astype(np.uint8))


def encoded(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **{"format": "PNG", **options})
    return buffer.getvalue()


def pixels(image):
    return np.asarray(image)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "WEBP", "TIFF"])
def test_ordinary_images_keep_their_bits(form):
    content = encoded(picture(), format=form)
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(image.convert("RGB"))
    found = open_image(content)
    assert found.mode == "RGB" and (pixels(found) == expected).all()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_that_a_camera_wrote_is_applied(orientation, form):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(picture(), format=form, exif=exif)
    found = open_image(content)
    with Image.open(io.BytesIO(content)) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    assert found.size == ((40, 60) if orientation > 4 else (60, 40)) == expected.size
    assert (pixels(found) == pixels(expected)).all()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_note_of_the_camera_is_no_reason_to_lose_the_picture():
    content = encoded(picture(), format="JPEG", exif=b"Exif\x00\x00MM\x00*\x00\x00\xff\xff")
    assert open_image(content).size == (60, 40)


RAMP = np.arange(0, 65536, 256).reshape(16, 16)  # its upper bytes are 0 to 255


@pytest.mark.parametrize(
    ("values", "form"),
    [
        (RAMP.astype(np.uint16), "PNG"),
        (RAMP.astype(np.uint16), "TIFF"),
        (RAMP.astype(np.int32), "TIFF"),
        (RAMP.astype(np.float32), "TIFF"),
        ((RAMP / 65280).astype(np.float32), "TIFF"),
        (RAMP.astype(np.int32) - 70_000, "TIFF"),
    ],
)
def test_deeper_greys_become_256_levels(values, form):
    found = pixels(open_image(encoded(Image.fromarray(values), format=form)))
    assert (found == np.arange(256).reshape(16, 16, 1)).all()


def test_a_dark_picture_of_16_bits_stays_dark():
    """By their depth, not by what this one holds: two pictures of one camera compare."""
    found = pixels(open_image(encoded(Image.fromarray((RAMP // 16).astype(np.uint16)))))
    assert found.max() == 15


def test_portable_greymaps_of_16_bits_are_read_by_their_depth():
    body = (RAMP // 16).astype(">u2").tobytes()
    assert pixels(open_image(b"P5 16 16 65535\n" + body)).max() == 15


def test_fractions_of_one_are_not_stretched():
    values = np.full((4, 4), 0.5, np.float32)
    assert (pixels(open_image(encoded(Image.fromarray(values), format="TIFF"))) == 128).all()


def test_not_a_number_is_no_pixel():
    values = np.full((4, 4), np.nan, np.float32)
    with pytest.raises(DataError, match="NaN or Inf"):
        open_image(encoded(Image.fromarray(values), format="TIFF"), "x.tif")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_lies_on_white(mode):
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    image.putpixel((1, 0), (200, 0, 0, 0))
    if mode == "LA":
        image = image.convert("LA")
    options = {}
    if mode == "P":
        image, options = Image.new("P", (2, 1)), {"transparency": 1}
        image.putpalette([10, 20, 30, 200, 0, 0])
        image.putpixel((1, 0), 1)
    found = open_image(encoded(image, **options))
    first: Any = image.getpixel((0, 0))
    left = 3 * (first[0],) if mode == "LA" else (10, 20, 30)
    assert found.getpixel((0, 0)) == left and found.getpixel((1, 0)) == (255, 255, 255)


def test_half_transparent_is_half_white():
    assert open_image(encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 127)))).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("form", ["GIF", "TIFF", "WEBP", "PNG"])
def test_of_several_frames_the_first_is_taken(form):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    content = encoded(frames[0], format=form, save_all=True, append_images=frames[1:])
    colour = open_image(content).getpixel((3, 3))
    assert isinstance(colour, tuple)
    red, green, blue = colour
    assert red > 200 and green < 50 and blue < 50


def test_a_palette_is_looked_up():
    assert open_image(encoded(Image.new("RGB", (4, 4), "red").quantize(4))).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["1", "L", "CMYK"])
def test_other_modes_become_rgb(mode):
    form = "JPEG" if mode == "CMYK" else "PNG"
    assert open_image(encoded(Image.new(mode, (4, 4)), format=form)).mode == "RGB"


def bomb(path):
    Image.new("1", (20_000, 20_000)).save(path)


def test_what_cannot_be_read_is_named_with_its_reason(tmp_path):
    bomb(tmp_path / "bomb.png")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    whole = encoded(picture((200, 200)))
    (tmp_path / "cut.png").write_bytes(whole[:40])
    expected = {
        "bomb.png": r"bomb\.png is too large to be read .*400000000 pixels",
        "empty.jpg": r"empty\.jpg cannot be read as an image \(it is empty\)",
        "text.png": r"text\.png is not an image of a form that Pillow reads",
        "folder.png": r"folder\.png cannot be read as an image \(it is a folder\)",
        "absent.png": r"absent\.png cannot be read as an image \(No such file",
    }
    for name, message in expected.items():
        with pytest.raises(DataError, match=message):
            open_image(tmp_path / name)
        assert fault_of(tmp_path / name).startswith(str(tmp_path / name))
    with pytest.raises(DataError, match="cut.png"):
        open_image(tmp_path / "cut.png")
    with pytest.raises(DataError, match="split train, row 3, cannot be read as an image"):
        open_image(b"", "split train, row 3,")
    (tmp_path / "good.png").write_bytes(whole)
    assert fault_of(tmp_path / "good.png") == "" == fault_of(whole)


def test_every_damage_of_a_file_is_a_data_error():
    """Whatever Pillow raises for whatever byte was lost."""
    generator = np.random.default_rng(0)
    contents = [encoded(picture(), format=form) for form in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP")]
    refused = 0
    for number in range(300):
        content = bytearray(contents[number % len(contents)])
        for place in generator.integers(0, min(len(content), 400), 4):
            content[place] = generator.integers(256)
        try:
            assert open_image(bytes(content)).mode == "RGB"
        except DataError:
            refused += 1
    assert refused > 30
