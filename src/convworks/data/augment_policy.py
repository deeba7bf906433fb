"""How far training images may be changed: one frozen value with the fields of a recipe's `augment`."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from convworks.data.augment_boxes import scaled_sizes
from convworks.errors import ConvworksError

# Field -> largest value, and what is wanted; zero is always allowed and does nothing.
LIMITS: dict[str, tuple[float, str]] = {
    "shift": (1024, "a whole number of pixels from 0 to {}"),
    "rotate": (180.0, "degrees from 0 to {}"),
    "scale": (0.9, "a fraction from 0 to {}"),
    "shear": (60.0, "degrees from 0 to {}"),
    "lighting": (10.0, "a standard deviation from 0 to {}"),
    "brightness": (1.0, "a fraction from 0 to {}"),
    "contrast": (1.0, "a fraction from 0 to {}"),
    "saturation": (1.0, "a fraction from 0 to {}"),
    "hue": (0.5, "a share of the circle from 0 to {}"),
    "elastic": (100.0, "a strength from 0 to {}"),
    "randaugment": (10, "a whole number of operations from 0 to {}"),
    "magnitude": (10.0, "a strength from 0 to {}"),
    "cutout": (4096, "a whole number of pixels from 0 to {}"),
    "mixup": (10.0, "an alpha from 0 to {}"),
    "cutmix": (10.0, "an alpha from 0 to {}"),
}
BORDERS = ("fill", "mirror")
WHOLE = ("shift", "randaugment", "cutout")
LONGEST = 8192  # pixels that a shorter side may be scaled to


@dataclass(frozen=True, slots=True)
class Augment:
    """How far a training image may be changed. The default changes nothing. In this order:

    1. Where the pixels come from, in one pass over the stored image:
       - the window that the network sees lies at a uniformly random position, and may reach out of the image
         by `shift` pixels on each side. Stored 256, input 224, shift 0: 33 x 33 positions (with flips 2,178
         views; the paper counts 32 x 32 x 2 = 2,048). Stored size equal to the input: both axes move by whole
         pixels from -shift to +shift;
       - `scale_jitter` (low, high): the image is first scaled so that its shorter side is S, a uniformly
         drawn whole number from low to high;
       - `area` (low, high) and `aspect`: instead of a window, a crop of that share of the area whose ratio of
         the sides lies between 1 / aspect and aspect, resized to the input;
       - `rotate`, `shear` (degrees) and `scale` (a fraction): uniform in [-value, +value], about the centre
         of the window, bilinear. A scale of s magnifies by 1 + s; positive angles turn counter-clockwise;
       - `elastic`: Simard's alpha, with `elastic_sigma` pixels: a random field that moves every pixel;
       - `flip`: left and right are exchanged with probability 1/2; with `flip_alternates` in every second
         epoch, for half of the images in the even ones.
       What lies outside the stored image is `fill`; with `border` = "mirror" it is the image mirrored at its
       edge, for shifts alone.
    2. `randaugment` operations of strength `magnitude`, from 0 to 10.
    3. `brightness`, `contrast`, `saturation`: factors uniform in [1 - value, 1 + value]; `hue`: moved by a
       uniform share of the circle in [-value, +value]; `lighting`: deviation of the PCA colour shift.
    4. `cutout`: a square of so many pixels around a random pixel is hidden: it becomes the colour that the
       normalisation takes to zero.
    5. `cutmix`, `mixup`: alpha of the distribution of the shares; another training image, changed by steps 1
       to 4 in its own way, gives a rectangle, or is blended in. With both, one of them for each image.

    Raises ConvworksError U170 for a value out of range, U201 for `area` together with `scale_jitter`, U205
    for a mirrored border together with more than a shift.
    """

    shift: int = 0
    border: str = "fill"
    flip: bool = False
    flip_alternates: bool = False
    rotate: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    scale_jitter: tuple[int, int] | None = None
    area: tuple[float, float] | None = None
    aspect: float = 4 / 3
    lighting: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    elastic: float = 0.0
    elastic_sigma: float = 4.0
    randaugment: int = 0
    magnitude: float = 9.0
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name, (limit, wanted) in LIMITS.items():
            kinds = (int,) if name in WHOLE else (int, float)
            value = getattr(self, name)
            self._require(name, type(value) in kinds and 0 <= value <= limit, wanted.format(limit))  # not NaN
        self._require("flip", isinstance(self.flip, bool), "true or false")
        self._require("flip_alternates", isinstance(self.flip_alternates, bool), "true or false")
        self._require("aspect", 1 <= self.aspect <= 4, "a ratio from 1 to 4")
        self._require("elastic_sigma", 0 < self.elastic_sigma <= 100, "pixels, above 0 and up to 100")
        self._require("border", self.border in BORDERS, " or ".join(BORDERS))
        pair = self.scale_jitter
        self._require(
            "scale_jitter",
            pair is None or (all(type(each) is int for each in pair) and 1 <= pair[0] <= pair[1] <= LONGEST),
            f"two whole numbers, the smaller first, from 1 to {LONGEST}, such as [256,512]",
        )
        self._require(
            "area",
            self.area is None or 0 < self.area[0] <= self.area[1] <= 1,
            "two fractions, the smaller first, above 0 and up to 1, such as [0.08,1]",
        )
        if self.area is not None and self.scale_jitter is not None:
            raise ConvworksError(
                "U201",
                "augment.area and augment.scale_jitter cannot be used together",
                why="each of them decides which part of an image is cut out and how large it becomes",
                try_="leave one of them out",
            )

        if self.border == "mirror" and (self.affine or self.resizes or self.elastic > 0):
            raise ConvworksError(
                "U205",
                "augment.border = mirror is for shifts alone",
                why="images that are turned, zoomed, sheared, bent or resized get grey where they end",
                try_="--set augment.border=fill",
            )

    def _require(self, name: str, good: bool, wanted: str) -> None:
        if not good:
            what = f"the augmentation {name} = {getattr(self, name)!r} cannot be used"
            raise ConvworksError("U170", what, why=f"it must be {wanted}")

    @property
    def enabled(self) -> bool:
        """False for the policy that changes nothing but the place of a crop."""
        return self.shift > 0 or self.flip or bool(self.beyond_affine()) or self.affine

    @property
    def affine(self) -> bool:
        return self.rotate > 0 or self.scale > 0 or self.shear > 0

    @property
    def resizes(self) -> bool:
        return self.scale_jitter is not None or self.area is not None

    @property
    def recolours(self) -> bool:
        return max(self.lighting, self.brightness, self.contrast, self.saturation, self.hue) > 0

    @property
    def mixes(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def beyond_affine(self) -> tuple[str, ...]:
        """Names of the settings in use besides shift, flip, rotate, scale and shear."""
        simple = {"shift", "flip", "rotate", "scale", "shear", "aspect", "elastic_sigma", "magnitude"}
        return tuple(
            each.name
            for each in fields(self)
            if each.name not in simple and getattr(self, each.name) != each.default
        )

    def require_simple(self, where: str) -> None:
        """Raises ConvworksError U204 where more is in use than shift, flip and affine changes."""
        if names := self.beyond_affine():
            raise ConvworksError(
                "U204",
                f"{where} cannot use the augmentation {', '.join(names)}",
                why="it works on arrays of any numbers, and knows shift, flip, rotate, scale and shear",
                try_="leave it out there, or train with convworks train",
            )

    def require_fits(
        self, *, height: int, width: int, stored: tuple[int, int] | None = None, channels: int = 3
    ) -> None:
        """Raises ConvworksError where these images cannot be changed so.

        U171 for a shift that could move everything out of sight, U200 for a scaled image smaller than the
        input, U202 for colours of grey images, U203 for a square larger than the image.
        """
        side = min(height, width)
        if self.shift >= side:
            raise ConvworksError(
                "U171",
                f"a shift of {self.shift} pixels is too large for images of {height}x{width}",
                why="nothing would be left of an image that is moved out of the window",
                try_=f"--set augment.shift={max(1, side // 8)}",
            )
        if self.cutout > side:
            raise ConvworksError(
                "U203",
                f"a cutout of {self.cutout} pixels is too large for images of {height}x{width}",
                why="a square of that size can hide a whole image",
                try_=f"--set augment.cutout={max(1, side // 2)}",
            )
        coloured = [name for name in ("saturation", "hue") if getattr(self, name)]
        if channels == 1 and coloured:
            raise ConvworksError(
                "U202",
                f"grey images cannot be changed in {' and '.join(coloured)}",
                why="they have no colour",
                try_=" ".join(f"--set augment.{name}=0" for name in coloured),
            )
        self._require_scaled(height, width, stored or (height, width))

    def _require_scaled(self, height: int, width: int, stored: tuple[int, int]) -> None:
        if self.scale_jitter is None:
            return
        low, high = self.scale_jitter
        least = scaled_sizes(np.array([low]), stored)[0]
        if least[0] < height or least[1] < width:
            need = max(-(-height * min(stored) // stored[0]), -(-width * min(stored) // stored[1]))
            raise ConvworksError(
                "U200",
                f"images scaled to a shorter side of {low} are smaller than the network's input of "
                f"{height}x{width}",
                why="no window of that size could be cut from them",
                try_=f"--set augment.scale_jitter=[{need},{max(high, need)}]",
            )
