"""Protocols: which views of an image a network sees at evaluation, and how its answers become one.

A protocol is scales x views x how to average, for any network and any data. Scales are written for an input
of 224 pixels, as they were published: for a network with an input of s pixels every number is multiplied by
s / 224 and rounded, so that at 224 they are the papers' own. No torch in here.

    centre                  the image as training fits it, its centre      the default
    10-crop                 4 corners and the centre, mirrored             Krizhevsky et al. 2012, section 4.1
    144-crop                4 scales x 3 squares x 6 x 2                   Szegedy et al. 2015, section 7
    vgg-dense               whole image, a map of class scores             Simonyan et al. 2015, section 3.2
    vgg-multi-scale         the same at Q = {S - 32, S, S + 32}, S = 256   the same, section 4.2
    vgg-multi-scale-jitter  the same at Q = {256, 384, 512}                the same, section 4.2
    multi-crop              3 scales x a 5 x 5 grid x 2                    the same, sections 3.2 and 4.3
    mirror-translate        3 places along a diagonal x 2                  Jordan 2024, section 3.5
    tta-turns               the centre, and 2 turns x 2 sizes              for digits and other drawings
    dense+multi-crop        the mean of the two soft-max posteriors        the same, section 4.3, Table 5

`NAME@256/384` is a protocol at other scales, `ONE+OTHER` the mean of two or more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from convworks.errors import ConvworksError, unknown_name

Layout = Literal["stored", "five", "squares", "grid", "shifts", "diagonal", "turns", "whole"]

PUBLISHED = 224  # the input that all scales are written for
VIEWS: dict[Layout, int] = {
    "stored": 1, "five": 5, "squares": 18, "grid": 25, "shifts": 9, "diagonal": 3, "turns": 5,
    "whole": 1,
}  # fmt: skip
CENTRE = "centre"  # the name of the view that is not moved begins so
TURN, ZOOM = 8.0, 0.07  # of the layout "turns": degrees to both sides, and the share by which sizes differ
DOUBLE = 2  # of the layout "diagonal": the weight of the centre against that of a moved view
LARGEST_SCALE = 2048
POSTERIORS = "mean of the softmax probabilities of all views"
SCORES = "mean of the class score map, then softmax; mean of these over views"
ALEXNET = "Krizhevsky, Sutskever, Hinton 2012, section 4.1"
GOOGLENET = "Szegedy et al. 2015, Going deeper with convolutions, section 7"
VGG = "Simonyan, Zisserman 2015, section 3.2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """A value: views x scales x how to average. `parts` are the protocols of a mean of several."""

    name: str
    summary: str
    layout: Layout = "five"
    scales: tuple[int, ...] = ()  # shorter sides for an input of 224; () where the stored image is taken
    mirrored: bool = False
    dense: bool = False  # fully connected layers at every place of the map, and the mean of the scores
    parts: tuple[str, ...] = ()
    source: str = ""

    @property
    def views(self) -> int:
        """Forward passes of one network for one image."""
        if self.parts:
            return sum(resolve(part).views for part in self.parts)
        return VIEWS[self.layout] * max(1, len(self.scales)) * (2 if self.mirrored else 1)

    @property
    def averaging(self) -> str:
        """How many answers become one, in words."""
        if self.parts:
            return f"mean of the softmax posteriors of {' and '.join(self.parts)}"
        if self.dense:
            return SCORES
        if self.layout == "diagonal":
            return f"{POSTERIORS}, the centre counted twice"
        return POSTERIORS if self.views > 1 else "one view"

    def weights(self, names: Iterable[str]) -> dict[str, float] | None:
        """How much each view counts, by its name; None where all count the same."""
        if self.layout != "diagonal":
            return None
        return {name: DOUBLE if name.startswith(CENTRE) else 1 for name in names}

    @property
    def mirrors(self) -> bool:
        """Whether some view is mirrored."""
        return self.mirrored or any(resolve(part).mirrors for part in self.parts)

    def sizes(self, side: int) -> tuple[int, ...]:
        """The scales for a network with an input of that side, in pixels."""
        return tuple(scaled(each, side) for each in self.scales)

    def words(self, side: int) -> str:
        """What is done, with the numbers for that side: for people and for records."""
        if self.parts:
            return self.averaging
        sizes = ", ".join(map(str, self.sizes(side)))
        text = f"{self.summary}; {self.averaging}"
        if self.layout in SHARES:
            return f"{text}; d = {shift(self.layout, side)}"
        if not self.scales:
            return text
        from_224 = f" ({', '.join(map(str, self.scales))} at 224)" if side != PUBLISHED else ""
        return f"{text}; shorter side {sizes}{from_224}"

    def to_dict(self) -> dict[str, Any]:
        """All that decides the numbers, as JSON values; the parts of a mean are spelt out."""
        tree = {**asdict(self), "views": self.views, "averaging": self.averaging}
        tree["scales"], tree["parts"] = list(self.scales), [resolve(part).to_dict() for part in self.parts]
        return tree


def scaled(number: int, side: int) -> int:
    """Pixels for an input of 224 -> for an input of `side`: number * side / 224, half rounded up."""
    return (2 * number * side + PUBLISHED) // (2 * PUBLISHED)


SHARES: dict[Layout, int] = {"shifts": 16, "diagonal": 32}  # of the side, by which views are moved


def shift(layout: Layout, side: int) -> int:
    """Pixels by which views of that layout move an input of `side`: its share, rounded, 1 at least."""
    share = SHARES[layout]
    return max(1, (2 * side + share) // (2 * share))


JITTER = (256, 384, 512)
_DENSE = "whole image, fully connected layers as convolutions, mirrored too"
# fmt: off
PROTOCOLS: dict[str, Protocol] = {each.name: each for each in (
    Protocol(name="centre", layout="stored", source="the default",
             summary="the image as training fits it, its centre"),
    Protocol(name="10-crop", layout="five", scales=(256,), mirrored=True, source=ALEXNET,
             summary="4 corners and the centre of the middle square, mirrored"),
    Protocol(name="144-crop", layout="squares", scales=(256, 288, 320, 352), mirrored=True, source=GOOGLENET,
             summary="3 squares; of each 4 corners, the centre and the square itself, mirrored"),
    Protocol(name="vgg-dense", layout="whole", scales=(256,), mirrored=True, dense=True, source=VGG,
             summary=_DENSE),
    Protocol(name="vgg-multi-scale", layout="whole", scales=(224, 256, 288), mirrored=True, dense=True,
             source="Simonyan, Zisserman 2015, section 4.2, fixed S", summary=_DENSE),
    Protocol(name="vgg-multi-scale-jitter", layout="whole", scales=JITTER, mirrored=True, dense=True,
             source="Simonyan, Zisserman 2015, section 4.2, S in [256; 512]", summary=_DENSE),
    Protocol(name="multi-crop", layout="grid", scales=JITTER, mirrored=True,
             source="Simonyan, Zisserman 2015, section 4.3", summary="5 x 5 grid of crops, mirrored"),
    Protocol(name="dense+multi-crop", parts=("vgg-multi-scale-jitter", "multi-crop"),
             source="Simonyan, Zisserman 2015, Table 5", summary="two ways to see the borders of a crop"),
    Protocol(name="tta", layout="shifts", mirrored=True, source="for small images",
             summary="the image as training fits it, moved by 0 or d pixels in 9 directions, mirrored"),
    Protocol(name="tta-shifts", layout="shifts",
             source="for small images where a mirror image means another class",
             summary="the image as training fits it, moved by 0 or d pixels in 9 directions"),
    Protocol(name="mirror-translate", layout="diagonal", mirrored=True, source="Jordan 2024, section 3.5",
             summary="the image as training fits it, and moved by d pixels up left and down right, mirrored"),
    Protocol(name="tta-turns", layout="turns", source="for small drawn signs",
             summary=f"the image as training fits it, and turned by {TURN:g} degrees both ways, each "
             f"{100 * ZOOM:g} % larger and smaller"),
    Protocol(name="full", layout="whole", scales=(256,),
             source="networks with global pooling, He et al. 2015",
             summary="whole image, nothing cut off; for networks that take any size"),
)}
# fmt: on
ALIASES = {"center": "centre", "vgg-ms": "vgg-multi-scale", "vgg-ms-jitter": "vgg-multi-scale-jitter"}
LADDERS: dict[str, tuple[str, ...]] = {  # several protocols by one name
    "googlenet-ladder": ("centre", "10-crop", "144-crop"),
    "vgg-ladder": ("centre", "vgg-multi-scale-jitter", "multi-crop", "dense+multi-crop"),
}


def resolve(name: str) -> Protocol:
    """The protocol of a name, of NAME@SCALE/SCALE, or of ONE+OTHER.

    Raises U253 for an unknown name, with the closest one, and U254 for scales that cannot be used.
    """
    name = ALIASES.get(name, name)
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    if "+" in name:
        names = re.findall(r"dense\+multi-crop|[^+]+", name)  # of means within a mean the parts count
        parts = tuple(sorted(each.name for each in leaves(map(resolve, names))))
        if len(parts) == 1:
            return resolve(parts[0])
        return Protocol(name="+".join(parts), parts=parts, source="", summary="a mean of protocols")
    base, at, scales = name.partition("@")
    base = ALIASES.get(base, base)
    if base not in PROTOCOLS:
        raise unknown_name(
            "protocol", base, (*PROTOCOLS, *ALIASES, *LADDERS), code="U253", try_="--protocol {near}"
        )
    return _at(PROTOCOLS[base], scales) if at else PROTOCOLS[base]


def _at(base: Protocol, text: str) -> Protocol:
    """The same views at other scales."""
    if not base.scales:
        raise ConvworksError(
            "U254",
            f"protocol '{base.name}' has no scales to set, got '@{text}'",
            why="it sees the image as training fits it" if not base.parts else "it is a mean of others",
            try_=f"--protocol {base.name}",
        )
    if not re.fullmatch(r"[0-9]{1,5}(/[0-9]{1,5})*", text):
        raise _bad_scales(base.name, text)
    scales = tuple(sorted({int(each) for each in text.split("/")}))
    if not all(PUBLISHED <= each <= LARGEST_SCALE for each in scales):
        raise _bad_scales(base.name, text)
    if scales == base.scales:
        return base
    return replace(base, name=f"{base.name}@{'/'.join(map(str, scales))}", scales=scales)


def _bad_scales(name: str, text: str) -> ConvworksError:
    return ConvworksError(
        "U254",
        f"protocol '{name}' cannot have the scales '{text}'",
        why=f"scales are shorter sides for an input of 224: whole, from {PUBLISHED} to {LARGEST_SCALE}",
        try_=f"--protocol {name}@256/384",
    )


def parse_protocols(texts: Iterable[str]) -> tuple[Protocol, ...]:
    """Protocols of names given one by one or with commas; ladders are spelt out, and each is taken once.

    Raises U253 and U254.
    """
    names = [part.strip() for text in texts for part in text.split(",") if part.strip()]
    spelt = [each for name in names for each in LADDERS.get(name, (name,))]
    found: dict[str, Protocol] = {}
    for name in spelt:
        protocol = resolve(name)
        found.setdefault(protocol.name, protocol)
    if not found:
        raise unknown_name("protocol", "", PROTOCOLS, code="U253", try_="--protocol 10-crop")
    return tuple(found.values())


def leaves(protocols: Iterable[Protocol]) -> tuple[Protocol, ...]:
    """The protocols that a network is run with: means of several are replaced by their parts; each once."""
    found: dict[str, Protocol] = {}
    for protocol in protocols:
        for each in leaves(map(resolve, protocol.parts)) if protocol.parts else (protocol,):
            found.setdefault(each.name, each)
    return tuple(found.values())


def is_protocol(name: str) -> bool:
    """True; raises ValueError in the words of `resolve` where it does not know the name: for settings."""
    try:
        resolve(name)
    except ConvworksError as problem:
        raise ValueError(f"{problem.what}, {problem.where or problem.why}") from problem
    return True
