"""Kernels in C++ for what lies between convolutions, built on the user's machine."""
