"""The mathematics of convolutional networks: pure functions with their forward and backward written out."""
