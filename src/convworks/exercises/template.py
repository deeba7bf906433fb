"""The files that students fill in, one for each problem set."""

from __future__ import annotations

CONVOLUTION = '''"""Problem set: a convolution module for 1-D signals, forward and two times backward.

Fill in the three functions. x and w are NumPy arrays of float64 with N and M numbers, M <= N.
`boundary` is one of
    "valid"  only whole windows: N - M + 1 outputs
    "same"   (M - 1) / 2 zeros on each side of x, M is odd: N outputs
    "full"   M - 1 zeros on each side of x: N + M - 1 outputs

CONVENTION says which operation yours is:
    "correlation"  y_t = sum_k w_k x_{t + k}           the kernel is not flipped, as in every library
    "convolution"  y_t = sum_k w_{M - 1 - k} x_{t + k}   the kernel is flipped
(t counts from the first place of the padded x.)

Grade it with: convworks exercise grade convolution THIS_FILE
"""

import numpy as np

CONVENTION = "correlation"


def forward(x, w, boundary):
    """The output y."""
    raise NotImplementedError


def backward_input(dy, w, n, boundary):
    """dC/dx, n numbers, from dy = dC/dy and the kernel w."""
    raise NotImplementedError


def backward_weights(dy, x, m, boundary):
    """dC/dw, m numbers, from dy = dC/dy and the input x."""
    raise NotImplementedError
'''

MAX_POOL = '''"""Problem set: a max-pool module for 1-D signals, forward and backward.

Fill in the two functions. x is a NumPy array of float64. Window t holds x[t * stride] up to
x[t * stride + size - 1]; a window that would reach beyond the end of x is left out. Windows may overlap.
In a tie the FIRST of the largest values gets the whole gradient.

Grade it with: convworks exercise grade max-pool THIS_FILE
"""

import numpy as np


def forward(x, size, stride):
    """The output y: the largest value of each window."""
    raise NotImplementedError


def backward(dy, x, size, stride):
    """dC/dx, as many numbers as x has, from dy = dC/dy and the input x."""
    raise NotImplementedError
'''

TEMPLATES = {"convolution": CONVOLUTION, "max-pool": MAX_POOL}
