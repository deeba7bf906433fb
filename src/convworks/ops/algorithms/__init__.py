"""The algorithms that compute a convolution, one file each.

Every file has the same three functions of a `Window`, on tensors of 1, 2 or 3 spatial dimensions:
`forward(x, weight, window)`, `input_gradient(dy, weight, window, size)` and
`weight_gradient(x, dy, window, channels)`; all compute cross-correlation, the operation of a layer.
"""
