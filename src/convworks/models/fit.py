"""Whether an image size fits a network, layer by layer, and which sizes would."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from convworks.errors import ConvworksError
from convworks.models.registry import misfit

LARGEST = 1024  # sides tried in the search for a size that fits


class Window(NamedTuple):
    """A layer that makes maps smaller; padding on each side, `ceil` where the size is rounded up."""

    layer: str
    kernel: int
    stride: int = 1
    padding: int = 0
    ceil: bool = False

    def output(self, side: int) -> int:
        """Cells after the layer; 0 or less where its kernel finds no place."""
        free = side + 2 * self.padding - self.kernel
        if free < 0:
            return 0
        steps = -(-free // self.stride) if self.ceil else free // self.stride
        if self.ceil and steps * self.stride >= side + self.padding:  # the last window must begin inside
            steps -= 1
        return steps + 1


def final_size(
    name: str, input_size: tuple[int, int], windows: Sequence[Window], *, published: int, least: int = 1
) -> tuple[int, int]:
    """Height and width after all windows, `least` or more.

    Raises U122 with the first layer at which the size breaks and the smallest side that fits; `published` is
    the side of the paper.
    """
    height, width = (_through(side, windows)[0] for side in input_size)
    if min(height, width) >= least:
        return height, width
    raise _misfit(name, input_size, windows, published=published, least=least)


def smallest_side(windows: Sequence[Window], *, least: int = 1) -> int:
    """The smallest side that leaves `least` cells at the end."""
    return next(side for side in range(1, LARGEST) if _through(side, windows)[0] >= least)


def _through(side: int, windows: Sequence[Window]) -> tuple[int, str]:
    """Cells at the end, or 0 and the layer at which it breaks."""
    for window in windows:
        before, side = side, window.output(side)
        if side < 1:
            return (
                0,
                f"{window.layer} has a {window.kernel}x{window.kernel} window, and {before} cells are left",
            )
    return side, ""


def _misfit(
    name: str, input_size: tuple[int, int], windows: Sequence[Window], *, published: int, least: int
) -> ConvworksError:
    cells, why = _through(min(input_size), windows)
    why = why or f"{cells} cells are left after {windows[-1].layer}, and {least} are needed"
    smallest = smallest_side(windows, least=least)
    return misfit(name, input_size, why=why, fits=f"{smallest}x{smallest} and larger", size=published)
