"""The network of 1989 by arithmetic: LeCun et al. 1989, section 4, with the numbers that it prints."""

from __future__ import annotations

from tests.papers.facts import Layer, Network

H1_UNITS, H2_UNITS = 12 * 8 * 8, 12 * 4 * 4
NETWORKS = {
    "lecun1989": Network(
        input_shape=(1, 16, 16),
        parameters=9_760,  # printed
        stages={
            "H1": Layer((12, 8, 8), H1_UNITS + 25 * 12, H1_UNITS * 25),
            "H2": Layer((12, 4, 4), H2_UNITS + 12 * 8 * 25, H2_UNITS * 8 * 25),
            "H3": Layer((30,), 30 * H2_UNITS + 30, 30 * H2_UNITS),
            "output": Layer((10,), 30 * 10 + 10, 30 * 10),
        },
    )
}
# printed, layer by layer: free parameters, and connections with those to the biases
PARAMETERS = {"H1": 1_068, "H2": 2_592, "H3": 5_790, "output": 310}
CONNECTIONS = {"H1": 19_968, "H2": 38_592, "H3": 5_790, "output": 310}
ALL_CONNECTIONS = 64_660
UNITS = 1_256  # printed, with the 256 of the image
