"""DICOM images as 8-bit RGB, by pydicom, which is an extra.

Grey values go through the modality table or rescaling and the first window or VOI table, as a viewer shows them. Where
there is neither, the smallest value becomes 0 and the largest 255. MONOCHROME1 is inverted. Of several frames the one
in the middle is taken: the first of a volume or a film often shows nothing.

References
----------
DICOM PS3.3, C.7.6.3 (photometric interpretation), C.11.1 (modality), C.11.2 (VOI).
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedpurel_app.core.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image
    from pydicom import Dataset

DICOM_ENDINGS = (".dcm", ".dicom")
INSTALL = 'DICOM images need pydicom: pip install "fedpurel-app[dicom]".'
_PREAMBLE, _MARK = 128, b"DICM"
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_PALETTE = "PALETTE COLOR"
_NEEDED = ("Rows", "Columns", "PhotometricInterpretation", "BitsStored")

Numbers = npt.NDArray[Any]


def is_dicom(source: Path | bytes) -> bool:
    """Tell whether an image is DICOM, by its ending, or by the mark in the content of one without a known ending."""
    if isinstance(source, bytes):
        return source[_PREAMBLE : _PREAMBLE + len(_MARK)] == _MARK
    return source.suffix.lower() in DICOM_ENDINGS or (not source.suffix[1:].isalpha() and _has_mark(source))


def _has_mark(path: Path) -> bool:
    """Look into a file whose name does not say what it is, as those of archives (``IM0001``, ``1.2.840.113``)."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return is_dicom(file.read(_PREAMBLE + len(_MARK)))
    except OSError:
        return False


def require_pydicom() -> None:
    """Raise DataError, with what to install, when pydicom is not there."""
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise DataError(INSTALL) from error


def check_header(source: Path | io.BytesIO) -> None:
    """Raise an exception when the header tells of no image that :func:`read_dicom` could read."""
    from pydicom import dcmread

    with dcmread(source, stop_before_pixels=True) as header:
        _check(header)


def dicom_form(source: Path | io.BytesIO) -> tuple[str, int, int]:
    """Return the kind of an image with its bits, its width and its height, by its header."""
    from pydicom import dcmread

    with dcmread(source, stop_before_pixels=True) as header:
        kind = f"DICOM {header.PhotometricInterpretation} {header.BitsStored} bit"
        return kind, int(header.Columns), int(header.Rows)


def _check(header: Dataset) -> None:
    from PIL import Image
    from pydicom.pixels.decoders.base import get_decoder

    if lacking := [name for name in _NEEDED if name not in header]:
        raise ValueError(f"it is DICOM without an image: no {', '.join(lacking)}")
    if header.PhotometricInterpretation not in (*_GREY, *_COLOUR, _PALETTE):
        raise ValueError(
            f"photometric interpretation {header.PhotometricInterpretation} is not read, but "
            f"{', '.join((*_GREY, *_COLOUR, _PALETTE))} are"
        )
    pixels, most = int(header.Rows) * int(header.Columns), 2 * (Image.MAX_IMAGE_PIXELS or 0)
    if 0 < most < pixels:
        raise Image.DecompressionBombError(f"{pixels} pixels, more than {most}")
    syntax = header.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated and not (decoder := get_decoder(syntax)).is_available:
        needed = "; ".join(decoder.missing_dependencies)
        raise ValueError(f"its compression, {syntax.name}, needs another package ({needed})")


def read_dicom(source: Path | io.BytesIO) -> Image:
    """Read an image.

    Parameters
    ----------
    source : Path or BytesIO

    Returns
    -------
    Image
        8-bit RGB.

    Raises
    ------
    Exception
        Of many kinds, pydicom's among them, when there is no image that can be read.
    """
    from PIL import Image
    from pydicom import dcmread
    from pydicom.pixels.processing import apply_color_lut
    from pydicom.pixels.utils import pixel_array

    with dcmread(source) as dataset:
        _check(dataset)
        if "PixelData" not in dataset:
            raise ValueError("it has no pixel data (PixelData)")
        frames = int(dataset.get("NumberOfFrames") or 1)
        frame = frames // 2
        values = pixel_array(dataset, index=frame)  # YBR becomes RGB
        kind = dataset.PhotometricInterpretation
        if kind in _GREY:
            grey = _windowed(values, _of_frame(dataset, frame))
            return Image.fromarray(255 - grey if kind == "MONOCHROME1" else grey).convert("RGB")
        if kind == _PALETTE:
            depth = int(dataset.RedPaletteColorLookupTableDescriptor[2])
            return Image.fromarray(_upper_byte(apply_color_lut(values, dataset), depth))
        return Image.fromarray(_upper_byte(values, int(dataset.BitsStored)))


def _windowed(values: Numbers, facts: Dataset) -> npt.NDArray[np.uint8]:
    """Bring grey values to 0 to 255 as the image asks to be shown."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    exact = apply_modality_lut(values, facts)
    if facts.get("VOILUTSequence"):
        depth = int(facts.VOILUTSequence[0].LUTDescriptor[2])
        return _stretched(apply_voi_lut(exact, facts), 0.0, 2.0**depth - 1)
    if facts.get("WindowCenter") is not None and facts.get("WindowWidth") is not None:
        with np.errstate(over="ignore"):  # a sigmoid of what is far away
            low, high = apply_voi_lut(np.array([-(2.0**40), 2.0**40]), facts)
            return _stretched(apply_voi_lut(exact, facts), float(low), float(high))
    return _stretched(exact, float(exact.min()), float(exact.max()))


def _of_frame(dataset: Dataset, frame: int) -> Dataset:
    """Return what says how a frame is shown; an enhanced image says it in groups, for all frames or for each."""
    from pydicom import Dataset

    found = Dataset()
    found.update(dataset.group_dataset(0x0028))
    for groups, place in (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", frame)):
        for item in (dataset.get(groups) or [])[place : place + 1]:
            for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
                for facts in item.get(name) or []:
                    found.update(facts)
    return found


def _stretched(values: Numbers, low: float, high: float) -> npt.NDArray[np.uint8]:
    shares = (values.astype(np.float64) - low) / ((high - low) or 1.0)
    return np.floor(255 * np.clip(shares, 0, 1) + 0.5).astype(np.uint8)


def _upper_byte(values: Numbers, depth: int) -> npt.NDArray[np.uint8]:
    """Return the upper 8 of some bits."""
    return (values >> max(0, depth - 8)).astype(np.uint8)
