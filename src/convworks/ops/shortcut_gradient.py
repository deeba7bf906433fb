"""The gradient of a residual unit's input, of which one part comes past the branch and one through it.

    y = f(x + F(x)),    dE/dx = g + F'(x)^T g    with g the gradient of the sum
Autograd adds the two in a pass of its own over the maps, which reads both and writes the sum. Here the last
batch norm of the branch, whose gradient makes g, hands g over to the first convolution of the branch, which
adds it to what it writes as F'(x)^T g: before rounding, and with a read in place of two reads and a write.
Where the shortcut takes every s-th place and fills up with zeros (option A), g is added at these places.

Backward reaches the convolution after the batch norm, since its gradient comes through it; where it is not
reached at all, nobody has asked for the gradient of x.
Source: He, Zhang, Ren, Sun, "Identity mappings in deep residual networks", 2016, equation 5.
"""

from __future__ import annotations

from torch import Tensor


class ShortcutGradient:
    """What one pass through a residual unit hands over backward, and whether a convolution waits for it."""

    __slots__ = ("_gradient", "awaited", "stride")

    def __init__(self, stride: int = 1) -> None:
        self.awaited, self.stride = False, stride
        self._gradient: Tensor | None = None

    def hand_over(self, gradient: Tensor) -> None:
        """Leave g (N, C, H, W) to the convolution."""
        self._gradient = gradient

    def take(self, x: Tensor) -> Tensor | None:
        """g, once, where it has the shape of x (N, C, H, W), so that a kernel can add it as it writes."""
        gradient = self._gradient
        if gradient is None or gradient.shape != x.shape:
            return None
        self._gradient = None
        return gradient

    def add_rest(self, dx: Tensor) -> None:
        """What `take` left, (N, C', H / stride, W / stride), to dx, in place; only the maps that x has."""
        gradient, self._gradient = self._gradient, None
        if gradient is not None:
            dx[:, :, :: self.stride, :: self.stride] += gradient[:, : dx.shape[1]]
