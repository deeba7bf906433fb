"""MobileNet V1: sixteen networks of four widths and four resolutions, which the lectures list."""

from __future__ import annotations

from fractions import Fraction
from functools import partial

from convworks.exercises.registry import KERAS
from convworks.ledger.alexnet import FIELDS
from convworks.ledger.cell import Cell, Value
from convworks.ledger.networks import Networks
from convworks.ledger.sheet import Sheet, listed

PAPER = "Howard et al. 2017, MobileNets"
README = "TensorFlow models, slim, mobilenet_v1"
SIDES = (224, 192, 160, 128)
# Million multiply-adds of the list for download, in the order of SIDES, and what they should be.
# fmt: off
WIDTHS = ("100", "075", "050", "025")
DOWNLOADS = {
    "100": ("569M", "418M", "291M", "186M"),
    "075": ("317M", "233M", "162M", "104M"),
    "050": ("150M", "110M",  "77M",  "49M"),
    "025": ( "41M",  "34M",  "21M",  "14M"),
}
CORRECTED = {
    ("075", 224): "325M", ("075", 192): "239M", ("075", 160): "166M", ("075", 128): "107M",
    ("050", 224): "149M", ("025", 192): "30M",
}
# Table 6: multiply-adds and parameters by width; Table 7: multiply-adds by resolution.
TABLE_6 = {"100": ("569M", "4.2M"), "075": ("325M", "2.6M"), "050": ("149M", "1.3M"), "025": ("41M", "0.5M")}
TABLE_7 = {224: "569M", 192: "418M", 160: "290M", 128: "186M"}
# fmt: on
WHY = {
    "075": "the whole row is 2.6 % too low: another way of counting; the paper's Table 6 prints 325M at 224",
    "050": "149.497M, rounded twice; the paper's Table 6 prints 149M",
    "025": "the cost goes with the area: 41.0M x (192/224)^2 is 30M",
}


def _parameters(net: Networks, name: str) -> Value:
    return net.parameters(name)


def _cell(key: str, what: str, name: str, printed: str, *, unit: str = "multiply-adds") -> Cell:
    count = _parameters if unit == "parameters" else Networks.macs
    return Cell(
        id=f"mobilenet/{key}", what=what, printed=printed, unit=unit, compute=partial(count, name=name)
    )


def _paper() -> Sheet:
    cells = []
    for width, (macs, parameters) in TABLE_6.items():
        name, what = f"mobilenet_v1_{width}_224", f"{int(width)}%, 224x224"
        cells.append(_cell(f"width/{width}/macs", f"{what}: multiply-adds", name, macs))
        cells.append(
            _cell(f"width/{width}/parameters", f"{what}: parameters", name, parameters, unit="parameters")
        )
    for side, macs in TABLE_7.items():
        name, what = f"mobilenet_v1_100_{side}", f"100%, {side}x{side}"
        cells.append(_cell(f"resolution/{side}/macs", f"{what}: multiply-adds", name, macs))
    return listed("mobilenet/paper", "Width and resolution", f"{PAPER}, Tables 6 and 7", tuple(cells))


def _downloads() -> Sheet:
    lines = []
    for width in WIDTHS:
        line: list[Cell | str | None] = []
        for side, printed in zip(SIDES, DOWNLOADS[width], strict=True):
            right = CORRECTED.get((width, side), "")
            line.append(
                Cell(
                    id=f"mobilenet/downloads/{width}/{side}",
                    what=f"{int(width)}%, {side}x{side}",
                    printed=printed,
                    unit="multiply-adds",
                    corrected=right,
                    explanation=WHY[width] if right else "",
                    compute=partial(Networks.macs, name=f"mobilenet_v1_{width}_{side}"),
                )
            )
        lines.append((f"{int(width)}%", tuple(line)))
    return Sheet(
        id="mobilenet/downloads",
        title="The sixteen networks of the list, multiply-adds",
        source=f"{KERAS}, pre-trained models, MobileNet V1; {README}",
        heads=("width", *(f"{side}x{side}" for side in SIDES)),
        lines=tuple(lines),
    )


def _numbers() -> Sheet:
    """What the lectures print: widths in per cent, and sides; and the receptive field."""
    cells = [
        Cell(
            id=f"mobilenet/maps/{width}",
            what=f"maps of the last layer, {int(width)}% of the full width",
            printed=f"{int(width)}%",
            unit="%",
            compute=partial(_share, width=width),
        )
        for width in WIDTHS
    ]
    cells += [
        Cell(
            id=f"mobilenet/input/{side}",
            what=f"input of mobilenet_v1_100_{side}",
            printed=f"{side}x{side}",
            unit="cells",
            compute=partial(_side, name=f"mobilenet_v1_100_{side}"),
        )
        for side in SIDES
    ]
    cells += [
        Cell(id="mobilenet/field", what="receptive field of the last maps", printed="315", unit="cells",
             source=FIELDS, compute=partial(Networks.field, name="mobilenet_v1_100_224", stage="conv14_pw")),
        Cell(id="mobilenet/stride", what="effective stride", printed="32", unit="cells", source=FIELDS,
             compute=lambda net: int(net.stage("mobilenet_v1_100_224", "conv14_pw").jump[0])),
    ]  # fmt: skip
    return listed("mobilenet/list", "MobileNet V1", f"{KERAS}, pre-trained models", tuple(cells))


def _share(net: Networks, width: str) -> Value:
    """Per cent of the maps of the full width before the mean."""
    full, own = (net.stage(f"mobilenet_v1_{each}_224", "avg_pool").output[0] for each in (WIDTHS[0], width))
    return Fraction(100 * own, full)


def _side(net: Networks, name: str) -> Value:
    return net.input(name)[:2]


SHEETS = (_numbers(), _paper(), _downloads())
