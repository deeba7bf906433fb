"""A contact sheet: small pictures in rows and columns, with words under them, as one image."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from convworks.errors import ConvworksError

if TYPE_CHECKING:
    from PIL import Image, ImageFont

SIDE = 168  # pixels of the longer side of a picture on the sheet
GAP = 18
PAPER, INK, PALE, FRAME = (255, 255, 255), (26, 26, 26), (98, 98, 98), (214, 214, 214)
TEXT, HEAD, TITLE = 12, 13, 15  # pixels
LEADING = 1.3
MAKER = "convworks"  # in the file, so that it is known as ours


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """A picture uint8 (H, W, 1 or 3), its title and the lines under it."""

    pixels: NDArray[np.uint8]
    title: str
    lines: tuple[str, ...] = ()


def draw_sheet(
    rows: Sequence[Sequence[Tile]], *, title: str, notes: Sequence[str] = (), heads: Sequence[str] = ()
) -> Image.Image:
    """An RGB image: the title, the notes, a head above each column, and the rows of tiles.

    Small pictures are enlarged by a whole number, so that their pixels can be seen; large ones are shrunk.
    """
    from PIL import Image, ImageDraw

    across = max([len(row) for row in rows] + [len(heads), 1])
    width = max(GAP + across * (SIDE + GAP), 3 * (SIDE + GAP) + GAP)
    noted = [_wrapped(each, _font(TEXT, False), width - 2 * GAP) for each in notes]
    opening = [(part, TITLE, True, INK) for part in _wrapped(title, _font(TITLE, True), width - 2 * GAP)]
    opening += [(part, TEXT, False, PALE) for parts in noted for part in parts]
    words = [[_under(tile) for tile in row] for row in rows]
    drawn = [[_picture(tile.pixels) for tile in row] for row in rows]
    high = [max([picture.height for picture in row] or [0]) + 6 for row in drawn]
    said = [max([sum(_step(each[1]) for each in lines) for lines in row] or [0]) for row in words]
    first = GAP + sum(_step(each[1]) for each in opening) + GAP // 2
    top = first + (_step(HEAD) + 6 if heads else 0)
    sheet = Image.new("RGB", (width, top + sum(high) + sum(said) + GAP * len(high)), PAPER)
    brush = ImageDraw.Draw(sheet)

    def write(x: int, y: int, lines: Sequence[tuple[str, int, bool, tuple[int, int, int]]]) -> None:
        for text, size, bold, ink in lines:
            brush.text((x, y), text, fill=ink, font=_font(size, bold))
            y += _step(size)

    write(GAP, GAP, opening)
    columns = [GAP + number * (SIDE + GAP) for number in range(across)]
    for x, head in zip(columns, heads, strict=False):
        write(x, first, [(_printable(head), HEAD, True, INK)])
    for pictures, texts, below, tall in zip(drawn, words, high, said, strict=True):
        for x, picture, lines in zip(columns, pictures, texts, strict=False):
            sheet.paste(picture, (x, top))
            brush.rectangle((x - 1, top - 1, x + picture.width, top + picture.height), outline=FRAME)
            write(x, top + below, lines)
        top += below + tall + GAP
    return sheet


def png(sheet: Image.Image) -> bytes:
    """The file, which says that it was made here."""
    from PIL import PngImagePlugin

    known = PngImagePlugin.PngInfo()
    known.add_text("Software", MAKER)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True, pnginfo=known)
    return buffer.getvalue()


def check_sheet_target(path: Path) -> None:
    """Before the work. Raises U181 for a name that is not a PNG's, U006 where another file would be lost."""
    from PIL import Image

    if path.suffix.lower() != ".png":
        raise ConvworksError(
            "U181",
            f"cannot tell from '{path.name}' what to write",
            where="a contact sheet is a .png",
            try_=f"--out {path.with_suffix('.png').name}",
        )
    if path.is_dir():
        raise ConvworksError("U006", f"{path} is a folder", try_=f"--out {path / 'augment.png'}")
    if path.exists():
        try:
            with Image.open(path, formats=("PNG",)) as found:
                ours = found.info.get("Software") == MAKER
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            ours = False
        if not ours:
            raise ConvworksError(
                "U006",
                f"{path} is there already, and is no contact sheet of convworks",
                why="it would be lost",
                try_=f"--out {path.with_name(path.stem + '-augmented.png').name}",
            )


def _under(tile: Tile) -> list[tuple[str, int, bool, tuple[int, int, int]]]:
    lines = [(part, TEXT, True, INK) for part in _wrapped(tile.title, _font(TEXT, True), SIDE)]
    for each in tile.lines:
        lines += [(part, TEXT, False, PALE) for part in _wrapped(each, _font(TEXT, False), SIDE)]
    return lines


def _step(size: int) -> int:
    return round(LEADING * size)


def _picture(pixels: NDArray[np.uint8]) -> Image.Image:
    """(H, W, 1 or 3) with its longer side near SIDE."""
    from PIL import Image

    plain = np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    picture = Image.fromarray(plain).convert("RGB")
    longer = max(picture.size)
    if longer <= SIDE:
        times = SIDE // longer
        size = (picture.width * times, picture.height * times)
        return picture.resize(size, Image.Resampling.NEAREST)
    size = (max(1, picture.width * SIDE // longer), max(1, picture.height * SIDE // longer))
    return picture.resize(size, Image.Resampling.LANCZOS)


@lru_cache(maxsize=8)
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and has Latin, Greek, Cyrillic and Arabic letters."""
    import matplotlib
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _printable(text: str) -> str:
    """Names of files may hold anything."""
    known = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(each if each.isprintable() else "?" for each in known)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines of at most `width` pixels, broken at spaces and after slashes, else anywhere."""
    lines, line = [], ""
    for word in _printable(text).replace("/", "/\0").replace(" ", " \0").split("\0"):
        if line and font.getlength((line + word).rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        line += word
        while font.getlength(line.rstrip()) > width and len(line) > 1:
            fits = next(n for n in range(len(line) - 1, 0, -1) if n == 1 or font.getlength(line[:n]) <= width)
            lines.append(line[:fits])
            line = line[fits:]
    return [*lines, line.rstrip()] if line.rstrip() or not lines else lines
