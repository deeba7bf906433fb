"""The ensembles of the papers, by name: which networks, trained at which scale, seen in how many views.

VGG writes a member as  D/256/224,256,288 : configuration D, trained with a shortest side S of 256 pixels,
tested at the three sides Q. A training range, the scale jitter, is  [256;512] .
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from convworks.errors import ConvworksError, unknown_name

VGG_CONFIGURATIONS = {
    "A": "vgg_a",
    "A-LRN": "vgg_a_lrn",
    "B": "vgg_b",
    "C": "vgg_c",
    "D": "vgg_d",
    "E": "vgg_e",
}
# Views of one image at one scale: the 5 x 5 grid of crops and its mirror images, or the whole image (and its
# mirror image) that a fully convolutional network sees at once.
MULTI_CROP_VIEWS, DENSE_VIEWS = 50, 2


@dataclass(frozen=True, slots=True)
class FusionMember:
    """One network of a fusion."""

    model: str  # a name of `convworks list models`
    count: int = 1  # networks of this kind, from different seeds
    train_scale: tuple[int, ...] = ()  # S, or the two ends of its range
    test_scales: tuple[int, ...] = ()  # Q
    external: str = ""  # other data that it was trained on first

    def text(self) -> str:
        if not self.train_scale:
            return f"{self.count} x {self.model}" + (f", {self.external}" if self.external else "")
        scale = (
            str(self.train_scale[0]) if len(self.train_scale) == 1 else "[{};{}]".format(*self.train_scale)
        )
        return f"{self.model}/{scale}/{','.join(map(str, self.test_scales))}"


@dataclass(frozen=True, slots=True)
class Fusion:
    """A published ensemble, its views for one image and its published errors in percent."""

    name: str
    members: tuple[FusionMember, ...]
    views: int  # of one image for one member, at one scale where there are several
    protocol: str
    errors: tuple[tuple[str, float], ...]
    source: str

    def protocol_of(self, member: FusionMember) -> str:
        """The protocol of one member, with its own test scales."""
        scales = f"@{'/'.join(map(str, member.test_scales))}" if member.test_scales else ""
        parts = {"dense+multi-crop": ("vgg-dense", "multi-crop")}.get(self.protocol, (self.protocol,))
        return "+".join(part + scales for part in parts)

    @property
    def networks(self) -> int:
        return sum(each.count for each in self.members)

    @property
    def passes(self) -> int:
        """Forward passes for one image: members x scales x views."""
        return sum(each.count * self.views * max(1, len(each.test_scales)) for each in self.members)


_MEMBER = re.compile(
    r"\(\s*([A-E](?:-LRN)?)\s*/\s*(?:(\d+)|\[\s*(\d+)\s*[;,]\s*(\d+)\s*\])\s*/\s*(\d+(?:\s*,\s*\d+)*)\s*\)"
)


def parse_vgg(text: str) -> tuple[FusionMember, ...]:
    """'(D/256/224,256,288), (E/[256;512]/256,384,512)' -> its members.

    Raises U266 where a part is no member.
    """
    rest = _MEMBER.sub("", text)
    found = [_member(match) for match in _MEMBER.finditer(text)]
    if not found or rest.strip(" ,\n\t"):
        raise ConvworksError(
            "U266",
            f"'{rest.strip(' ,') or text}' is no member of a fusion",
            why="a member is configuration, training side and test sides, as in the VGG paper's table 6",
            try_='convworks ensemble --fusion "(D/256/224,256,288), (E/256/224,256,288)"',
        )
    return tuple(found)


def _member(match: re.Match[str]) -> FusionMember:
    name, side, low, high, tested = match.groups()
    trained = (int(side),) if side else (int(low), int(high))
    if trained != tuple(sorted(trained)) or min(trained) < 1:
        raise ConvworksError(
            "U266", f"the range of training sides {match[0]} is not a range", try_="[256;512]"
        )
    scales = tuple(int(each) for each in tested.split(","))
    return FusionMember(VGG_CONFIGURATIONS[name], train_scale=trained, test_scales=scales)


_SUBMISSION = (
    "(D/256/224,256,288), (D/384/352,384,416), (D/[256;512]/256,384,512), (C/256/224,256,288), "
    "(C/384/352,384,416), (E/256/224,256,288), (E/384/352,384,416)"
)
_BEST_TWO = "(D/[256;512]/256,384,512), (E/[256;512]/256,384,512)"
_VGG = "Simonyan and Zisserman 2015, table 6"
_ALEXNET = "Krizhevsky et al. 2012, table 2"
_GOOGLENET = "Szegedy et al. 2015, table 3"


def _vgg(name: str, text: str, views: int, protocol: str, *errors: tuple[str, float]) -> Fusion:
    return Fusion(name, parse_vgg(text), views, protocol, errors, _VGG)


FUSIONS: dict[str, Fusion] = {
    each.name: each
    for each in (
        Fusion(
            "alexnet-5",
            (FusionMember("alexnet", 5),),
            10,
            "10-crop",
            (("top-1 val", 38.1), ("top-5 val", 16.4), ("top-5 test", 16.4)),
            _ALEXNET,
        ),
        Fusion(
            "alexnet-7",
            (
                FusionMember("alexnet", 5),
                FusionMember(
                    "alexnet", 2, external="with a sixth convolution, first trained on ImageNet 2011"
                ),
            ),
            10,
            "10-crop",
            (("top-1 val", 36.7), ("top-5 val", 15.4), ("top-5 test", 15.3)),
            _ALEXNET,
        ),
        Fusion(
            "googlenet-7-1",
            (FusionMember("googlenet", 7),),
            1,
            "centre",
            (("top-5 val", 8.09),),
            _GOOGLENET,
        ),
        Fusion(
            "googlenet-7-10",
            (FusionMember("googlenet", 7),),
            10,
            "10-crop",
            (("top-5 val", 7.62),),
            _GOOGLENET,
        ),
        Fusion(
            "googlenet-7",
            (FusionMember("googlenet", 7),),
            144,
            "144-crop",
            (("top-5 val", 6.67),),
            _GOOGLENET,
        ),
        _vgg(
            "vgg-7",
            _SUBMISSION,
            DENSE_VIEWS,
            "vgg-dense",
            ("top-1 val", 24.7),
            ("top-5 val", 7.5),
            ("top-5 test", 7.3),
        ),
        _vgg(
            "vgg-2",
            _BEST_TWO,
            DENSE_VIEWS,
            "vgg-dense",
            ("top-1 val", 24.0),
            ("top-5 val", 7.1),
            ("top-5 test", 7.0),
        ),
        _vgg(
            "vgg-2-multi-crop",
            _BEST_TWO,
            MULTI_CROP_VIEWS,
            "multi-crop",
            ("top-1 val", 23.9),
            ("top-5 val", 7.2),
        ),
        _vgg(
            "vgg-2-dense+multi-crop",
            _BEST_TWO,
            DENSE_VIEWS + MULTI_CROP_VIEWS,
            "dense+multi-crop",
            ("top-1 val", 23.7),
            ("top-5 val", 6.8),
            ("top-5 test", 6.8),
        ),
    )
}


def fusion(text: str) -> Fusion:
    """A fusion by name, or one written as in the VGG paper. Raises U101 (unknown name), U266 (no member)."""
    if text in FUSIONS:
        return FUSIONS[text]
    if "(" in text:
        return Fusion("given", parse_vgg(text), DENSE_VIEWS, "vgg-dense", (), "as given")
    raise unknown_name("fusion", text, FUSIONS, try_="convworks ensemble --fusion {near}")
