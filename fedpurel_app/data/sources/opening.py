"""Open an image: the one way in, for folders, parquet, the hub and ``fedpurel predict`` alike.

What is in a file becomes 8-bit RGB as a viewer would show it; what is that already keeps its bits.

- The orientation that a camera wrote (EXIF) is applied.
- Transparent parts lie on white.
- 16 bits a channel become their upper 8. Of 32-bit whole numbers the smallest of an image becomes 0 and the largest
  255. Floats from 0 to 1 are shares of 255; other floats are stretched as 32-bit whole numbers are.
- Of animations and files of several pages the first is taken.
- DICOM is read by :mod:`fedpurel_app.data.sources.dicom`, which says how.
"""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedpurel_app.core.errors import DataError
from fedpurel_app.core.names import printable
from fedpurel_app.data.sources.dicom import check_header, dicom_form, is_dicom, read_dicom, require_pydicom

if TYPE_CHECKING:
    from PIL.Image import Image, Transpose

RULES = 1  # raise when the rules above change: it is part of the name of what is cached
_BACKGROUND = "white"
_ORIENTATION = 0x0112  # EXIF's tag


def open_image(source: Path | bytes, where: str = "") -> Image:
    """Open an image as 8-bit RGB.

    Parameters
    ----------
    source : Path or bytes
        A file, or the content of one.
    where : str
        What the error calls it; a file's own path where it is empty.

    Raises
    ------
    DataError
        Naming the image, and why it cannot be read; or what to install for DICOM.
    """
    from PIL import Image

    if dicom := is_dicom(source):
        require_pydicom()
    try:
        if dicom:
            return read_dicom(_readable(source))
        with Image.open(_readable(source)) as image:
            image.load()
            return _upright(image, _rgb(_opaque(_eight_bits(image))))
    except Exception as error:  # Pillow's readers raise many kinds; all mean that this image is not to be had
        raise DataError(f"{_called(source, where)} {_fault(error)}: mend it, or leave it out.") from error


def fault_of(source: Path | bytes, where: str = "") -> str:
    """Tell what is wrong with an image by its header alone; empty when nothing is.

    What is damaged behind the header is found only when the image is opened. Raises DataError where DICOM cannot be
    read at all.
    """
    from PIL import Image

    if dicom := is_dicom(source):
        require_pydicom()
    try:
        if dicom:
            check_header(_readable(source))
            return ""
        with Image.open(_readable(source)):
            return ""
    except Exception as error:  # as above
        return f"{_called(source, where)} {_fault(error)}"


def form_of(source: Path | bytes) -> tuple[str, int, int] | None:
    """Return what an image is by its header, its mode or for DICOM its kind and bits, width and height; else None."""
    from PIL import Image

    try:
        if is_dicom(source):
            return dicom_form(_readable(source))
        with Image.open(_readable(source)) as image:
            return image.mode, *image.size
    except Exception:  # :func:`fault_of` says why
        return None


def _called(source: Path | bytes, where: str) -> str:
    return where or (printable(str(source)) if isinstance(source, Path) else "an image")


def _readable(source: Path | bytes) -> Path | io.BytesIO:
    """Refuse what has no content, or would never end."""
    if isinstance(source, bytes):
        if not source:
            raise EOFError("it is empty")
        return io.BytesIO(source)
    status = source.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(0, "it is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise OSError(0, "it is no regular file")
    if not status.st_size:
        raise EOFError("it is empty")
    if not os.access(source, os.R_OK):
        raise PermissionError(0, "it may not be read by this user")
    return source


def _fault(error: Exception) -> str:
    """Say why an image cannot be read; the sentence begins with the image's name."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, Image.DecompressionBombError):
        return f"is too large to be read ({error})"
    if isinstance(error, UnidentifiedImageError):
        return "is not an image of a form that Pillow reads"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return f"cannot be read as an image ({reason})"


def _eight_bits(image: Image) -> Image:
    """Bring one channel of 16 or 32 bits to 8."""
    from PIL import Image as Pillow

    # Pillow's reader brings any depth of PPM to 16 bits.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return Pillow.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        return Pillow.fromarray(_stretched(np.asarray(image), fractions=image.mode == "F"))
    return image


def _stretched(values: npt.NDArray[Any], fractions: bool) -> npt.NDArray[np.uint8]:
    exact = values.astype(np.float64)
    if not np.isfinite(exact).all():
        raise ValueError("it holds NaN or Inf")
    low, high = float(exact.min()), float(exact.max())
    if fractions and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    return np.floor(255 * (exact - low) / ((high - low) or 1.0) + 0.5).astype(np.uint8)


def _opaque(image: Image) -> Image:
    """Put transparent parts on the background."""
    if not image.has_transparency_data:
        return image
    from PIL import Image as Pillow

    above = image.convert("RGBA")
    return Pillow.alpha_composite(Pillow.new("RGBA", above.size, _BACKGROUND), above)


def _rgb(image: Image) -> Image:
    return image.convert("RGB")  # a copy, also where it is RGB: the file is closed behind it


def _upright(original: Image, image: Image) -> Image:
    """Turn and mirror an image as its file says."""
    try:
        orientation = original.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged note of the camera is no reason to lose the picture
        return image
    turn = _turns().get(orientation)
    return image if turn is None else image.transpose(turn)


def _turns() -> dict[int, Transpose]:
    from PIL.Image import Transpose

    return {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
