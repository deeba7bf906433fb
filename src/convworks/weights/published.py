"""Weights by name: the files that torchvision publishes for networks of ours.

A row pins what its publisher does: the file's name, which ends in the first eight digits of its sha256, and
its size in MiB to three places. Nobody publishes the other 56 digits, so a download is compared with these:
enough to find a damaged or exchanged file, and not proof against somebody who makes one to fit. The file is
read as any PyTorch file is, in a process of its own that accepts tensors only, and kept as a model folder.

Source: torchvision 0.28, `torchvision.models`, `..._Weights` (url and _file_size).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convworks.data.download import announced_size, exclusive, fetch, make_folder
from convworks.data.remote import Remote, manual_command, megabytes, mismatch
from convworks.durable import folder_damage
from convworks.errors import ConvworksError, closest
from convworks.weights.importer import import_weights

PLACE = "https://download.pytorch.org/models"


@dataclass(frozen=True, slots=True)
class Published:
    """One published file for one network; `options` are those that the network must have."""

    model: str
    name: str
    file: str
    mebibytes: float
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digits(self) -> str:
        """The first eight digits of the sha256, out of the file's name."""
        found = re.search(r"-([0-9a-f]{8})\.pth$", self.file)
        assert found is not None
        return found[1]

    @property
    def size(self) -> int:
        """Bytes, within 525 of the true number."""
        return round(self.mebibytes * 2**20)

    def remote(self, size: int, place: str = PLACE) -> Remote:
        return Remote(self.file, (f"{place}/{self.file}",), size, sha256=self.digits)


V1, V2 = "imagenet1k_v1", "imagenet1k_v2"
NORMED = {"batch_norm": True}
# fmt: off
PUBLISHED = (
    #         model                    name  file                                   MiB
    Published("alexnet_torchvision",   V1, "alexnet-owt-7be5be79.pth",             233.087),
    Published("vgg_a",                 V1, "vgg11-8a719046.pth",                   506.84),
    Published("vgg_b",                 V1, "vgg13-19584684.pth",                   507.545),
    Published("vgg_d",                 V1, "vgg16-397923af.pth",                   527.796),
    Published("vgg_e",                 V1, "vgg19-dcbb9e9d.pth",                   548.051),
    Published("vgg_a",                 V1, "vgg11_bn-6002323d.pth",                506.881, NORMED),
    Published("vgg_b",                 V1, "vgg13_bn-abd245e5.pth",                507.59,  NORMED),
    Published("vgg_d",                 V1, "vgg16_bn-6c64b313.pth",                527.866, NORMED),
    Published("vgg_e",                 V1, "vgg19_bn-c79401a0.pth",                548.143, NORMED),
    Published("googlenet_torchvision", V1, "googlenet-1378be20.pth",                49.731),
    Published("inception_v3",          V1, "inception_v3_google-0cc3c7bd.pth",     103.903),
    Published("resnet18",              V1, "resnet18-f37072fd.pth",                 44.661),
    Published("resnet34",              V1, "resnet34-b627a593.pth",                 83.275),
    Published("resnet50_v1_5",         V1, "resnet50-0676ba61.pth",                 97.781),
    Published("resnet50_v1_5",         V2, "resnet50-11ad3fa6.pth",                 97.79),
    Published("resnet101_v1_5",        V1, "resnet101-63fe2227.pth",               170.511),
    Published("resnet101_v1_5",        V2, "resnet101-cd907fc2.pth",               170.53),
    Published("resnet152_v1_5",        V1, "resnet152-394f9c45.pth",               230.434),
    Published("resnet152_v1_5",        V2, "resnet152-f82ba261.pth",               230.474),
)
# fmt: on


def names_for(model: str) -> tuple[str, ...]:
    """Names under which weights of a network are published here."""
    return tuple(dict.fromkeys(row.name for row in PUBLISHED if row.model == model))


def find_published(model: str, name: str, options: Mapping[str, Any]) -> Published:
    """The row of a name. Raises U195 where there is none for this network with these options."""
    normed = bool(options.get("batch_norm", False))
    for row in PUBLISHED:
        if (row.model, row.name) == (model, name) and bool(row.options.get("batch_norm", False)) == normed:
            return row
    known = names_for(model)
    near = closest(name, known)
    raise ConvworksError(
        "U195",
        f"there is no file '{name}', and no published weights of {model} under that name",
        where=f"names for {model}: {', '.join(known)}" if known else f"none are known for {model}",
        why="weights come from a .safetensors file, the folder of a run or a model, or one of these names",
        try_=f"--pretrained {near or known[0]}" if known else "--pretrained weights.safetensors",
    )


def folder_of(row: Published, cache: Path) -> Path:
    """Where a published file lies as a model folder, once it was brought."""
    return cache / "weights" / row.file.removesuffix(".pth")


def bring(
    row: Published,
    *,
    cache: Path,
    offline: bool,
    say: Callable[[str], None] | None = None,
    place: str = PLACE,
    allow_loopback: bool = False,
) -> Path:
    """The model folder of a published file; it is downloaded and converted where it is not in the cache.

    A file that was put into the cache by hand is taken. Raises D161 (offline; says what to fetch and where to
    put it), D160, D162, D163 (the download failed), R503, R504, and those of `import_weights`.
    """
    folder = folder_of(row, cache)
    make_folder(folder.parent)
    with exclusive(folder.with_suffix(".lock"), say=say):
        if folder.is_dir() and not folder_damage(folder):
            return folder
        file = folder.with_name(row.file)
        size = _size(row, file, offline=offline, place=place, allow_loopback=allow_loopback)
        fetch(row.remote(size, place), file, offline=offline, say=say, allow_loopback=allow_loopback)
        import_weights(
            file, model=row.model, out=folder, options=row.options, classes=None, trusted=True, replace=True
        )
        file.unlink()
    return folder


def _size(row: Published, file: Path, *, offline: bool, place: str, allow_loopback: bool) -> int:
    """The size to expect: that of a file that is there, or the one that the server announces.

    Either must be the published number of MiB. Raises D162 where it is not.
    """
    url = f"{place}/{row.file}"
    if (
        file.is_file()
        and _is_published(row, file.stat().st_size)
        and not mismatch(file, row.remote(file.stat().st_size))
    ):
        return file.stat().st_size
    said = None if offline else announced_size(url, allow_loopback=allow_loopback)
    if said is None:
        return row.size  # `fetch` says why there is no file
    if not _is_published(row, said):
        raise ConvworksError(
            "D162",
            f"{row.file} is not the published file: the server has {said:,} bytes",
            where=f"{url}; published: {megabytes(row.size)}",
            try_=manual_command(row.remote(row.size, place), file),
        )
    return said


def _is_published(row: Published, size: int) -> bool:
    return abs(size / 2**20 - row.mebibytes) < 0.0006
