"""MobileNet V1: Howard et al. 2017, Table 1, and sums over it."""

from __future__ import annotations

from tests.papers.facts import Layer, Network, dense

# Table 1 in pairs of rows, depthwise and 1x1: stride of the first, maps before, maps after
PAIRS = [
    (1, 32, 64),
    (2, 64, 128),
    (1, 128, 128),
    (2, 128, 256),
    (1, 256, 256),
    (2, 256, 512),
    *[(1, 512, 512)] * 5,
    (2, 512, 1024),
    (1, 1024, 1024),
]
PARAMETERS = {"100": 4_231_976, "075": 2_585_560, "050": 1_331_592, "025": 470_072}
QUARTERS = {"100": 4, "075": 3, "050": 2, "025": 1}
# printed in Tables 6 and 7, in millions of multiply-adds
PRINTED_MACS = {
    ("100", 224): 569, ("075", 224): 325, ("050", 224): 149, ("025", 224): 41,
    ("100", 192): 418, ("100", 160): 290, ("100", 128): 186,
}  # fmt: skip
RECEPTIVE_FIELD = 315  # google-research/receptive_field


def network(width: str, side: int) -> Network:
    quarters = QUARTERS[width]
    maps, cells = 32 * quarters // 4, side // 2
    stages = {
        "conv1": Layer((maps, cells, cells), 27 * maps + 2 * maps, 27 * maps * cells * cells),
    }
    for number, (stride, before, after) in enumerate(PAIRS, start=2):
        before, after = before * quarters // 4, after * quarters // 4
        cells //= stride
        area = cells * cells
        stages[f"conv{number}_dw"] = Layer((before, cells, cells), 9 * before + 2 * before, 9 * before * area)
        stages[f"conv{number}_pw"] = Layer(
            (after, cells, cells), before * after + 2 * after, before * after * area
        )
    last = 1024 * quarters // 4
    stages |= {"avg_pool": Layer((last,), 0, 0), "fc": dense(last, 1000)}
    return Network(
        input_shape=(3, side, side),
        classes=1000,
        parameters=PARAMETERS[width],
        macs=sum(each.macs for each in stages.values()),
        stages=stages,
        small=(40, 40),
        only_counted=side != 224,  # at one size the four sides are one network
    )


NETWORKS = {
    f"mobilenet_v1_{width}_{side}": network(width, side)
    for width in PARAMETERS
    for side in (224, 192, 160, 128)
}
