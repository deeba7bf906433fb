"""Data sets that are given by name: where their files are looked for, and what the published files hash to.

The order is: the data root of the user, the cache, the network. A copy in the data root is compared with the
published bytes and used where it lies; `cifar10-jpeg.zip` there stands in for CIFAR-10 and has a title of its
own, because its pixels went through JPEG.

Sources of the pins: sizes and sha256 of the distributed files from the checksum files of TensorFlow Datasets
(url_checksums/mnist.txt, fashion_mnist.txt, cifar10.txt), those of Fashion-MNIST also from Keras
(datasets/fashion_mnist.py). With the md5 of the contents a copy is known however it was compressed.
"""

from __future__ import annotations

import gzip
import hashlib
import shlex
import shutil
import tarfile
import uuid
import zlib
from dataclasses import dataclass
from pathlib import Path

from convworks import durable
from convworks.data.download import Say, disk_full, exclusive, fetch, make_folder
from convworks.data.remote import Remote, manual_command, megabytes, mismatch
from convworks.errors import ConvworksError, unknown_name

CIFAR_BATCH = 10_000 * (1 + 3 * 32 * 32)  # bytes: 10,000 records of a label and 3,072 pixel values
IDX_FILES = (  # name as distributed; bytes of the content: 4, 4 for each dimension, one for each value
    ("train-images-idx3-ubyte.gz", 16 + 60_000 * 28 * 28),
    ("train-labels-idx1-ubyte.gz", 8 + 60_000),
    ("t10k-images-idx3-ubyte.gz", 16 + 10_000 * 28 * 28),
    ("t10k-labels-idx1-ubyte.gz", 8 + 10_000),
)


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A distributed file; for a .gz also what its content hashes to, so that any recompression is known."""

    remote: Remote
    content_size: int = 0  # bytes
    content_md5: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedSet:
    """One data set: IDX files kept as they are (`members` empty), or one tar archive of binary batches."""

    name: str
    title: str
    files: tuple[NamedFile, ...]
    folders: tuple[str, ...]  # where the files lie under a data root
    members: tuple[str, ...] = ()  # files of `member_size` bytes that make the unpacked archive complete
    member_size: int = 0
    extras: tuple[str, ...] = ()  # small files of the archive that are unpacked too
    stand_in: str = ""  # a file under a data root that may take its place
    stand_in_title: str = ""
    citation: str
    licence: str
    homepage: str

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(file.remote.size for file in self.files)


def _idx_files(
    *, mirrors: tuple[str, ...], sizes: tuple[int, ...], sha256: tuple[str, ...], md5: tuple[str, ...]
) -> tuple[NamedFile, ...]:
    """In the order of IDX_FILES: `sizes` and `sha256` of the .gz files, `md5` of their contents."""
    return tuple(
        NamedFile(Remote(name, tuple(m + name for m in mirrors), size, sha256=pin), content, content_md5)
        for (name, content), size, pin, content_md5 in zip(IDX_FILES, sizes, sha256, md5, strict=True)
    )


TABLE = (
    NamedSet(
        name="mnist",
        title="MNIST",
        folders=("mnist", "MNIST/raw"),  # the second is how torchvision stores it
        files=_idx_files(
            mirrors=(
                "https://ossci-datasets.s3.amazonaws.com/mnist/",
                "https://storage.googleapis.com/cvdf-datasets/mnist/",
            ),
            sizes=(9_912_422, 28_881, 1_648_877, 4_542),
            sha256=(
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
            md5=(
                "6bbc9ace898e44ae57da46a324031adb",
                "a25bea736e30d166cdddb491f175f624",
                "2646ac647ad5339dbf082846283269ea",
                "27ae3e4e09519cfbb04c329615203637",
            ),
        ),
        citation="LeCun, Bottou, Bengio, Haffner, Gradient-based learning applied to document recognition, "
        "Proceedings of the IEEE 86(11), 1998",
        licence="the authors state no licence",
        homepage="http://yann.lecun.com/exdb/mnist/",
    ),
    NamedSet(
        name="fashion-mnist",
        title="Fashion-MNIST",
        folders=("fashion-mnist", "FashionMNIST/raw"),
        files=_idx_files(
            mirrors=(
                "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",  # the authors' bucket, by https
                "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
                "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
            ),
            sizes=(26_421_880, 29_515, 4_422_102, 5_148),
            sha256=(
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
            md5=(
                "f4a8712d7a061bf5bd6d2ca38dc4d50a",
                "9018921c3c673c538a1fc5bad174d6f9",
                "8181f5470baa50b63fa0f6fddb340f0a",
                "15d484375f8d13e6eb1aabb0c3f46965",
            ),
        ),
        citation="Xiao, Rasul, Vollgraf, Fashion-MNIST: a novel image dataset for benchmarking machine "
        "learning algorithms, arXiv:1708.07747, 2017",
        licence="MIT",
        homepage="https://github.com/zalandoresearch/fashion-mnist",
    ),
    NamedSet(
        name="cifar10",
        title="CIFAR-10",
        folders=("cifar-10-batches-bin",),
        files=(
            NamedFile(
                Remote(
                    "cifar-10-binary.tar.gz",
                    (
                        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                        "https://cave.cs.toronto.edu/kriz/cifar-10-binary.tar.gz",  # the new place
                    ),
                    170_052_171,
                    # The author publishes the md5 of the same file: c32a1d4ab5d03f1284b67883e8d87530.
                    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                )
            ),
        ),
        members=(*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"),
        member_size=CIFAR_BATCH,
        extras=("batches.meta.txt",),  # the names of the classes
        stand_in="cifar10-jpeg.zip",
        stand_in_title="CIFAR-10 (JPEG copy)",
        citation="Krizhevsky, Learning multiple layers of features from tiny images, technical report, 2009",
        licence="the author states no licence, and asks to cite the report",
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
)


def names() -> tuple[str, ...]:
    """The data sets that can be downloaded; `digits` and `shapes` are built in, and need no files."""
    return tuple(row.name for row in TABLE)


def info(name: str) -> NamedSet:
    """The row of a data set. Raises ConvworksError U101 for another name."""
    for row in TABLE:
        if row.name == name:
            return row
    raise unknown_name("data set", name, names(), try_="convworks train {near}")


def title(path: Path) -> str:
    """How results on what `find_named` returned must be headed, such as 'CIFAR-10 (JPEG copy)'."""
    for row in TABLE:
        if row.stand_in and path.name == row.stand_in:
            return row.stand_in_title
        if any(f"/{path.as_posix()}".endswith(f"/{place}") for place in row.folders):
            return row.title
    return path.name


def find_named(
    name: str, *, data_root: Path | None, cache: Path, offline: bool = False, say: Say | None = None
) -> Path:
    """The folder or file of a data set: from the data root, else the cache, else the network.

    Raises ConvworksError U101 (no such name), D161 (offline and not here), D165 (the copy in the data root is
    not the published data), D166 (the archive lacks a file), and those of `download.fetch`.
    """
    return locate(info(name), data_root=data_root, cache=cache, offline=offline, say=say)


def locate(
    row: NamedSet,
    *,
    data_root: Path | None,
    cache: Path,
    offline: bool = False,
    say: Say | None = None,
    allow_loopback: bool = False,
) -> Path:
    """`find_named` for any row; `allow_loopback` as in `download.fetch`."""
    tell = say or (lambda _: None)
    if data_root is not None and (found := _in_data_root(row, data_root, cache=cache, say=tell)) is not None:
        return found
    folder = cache / "datasets" / row.name
    ready = folder / row.folders[0] if row.members else folder
    if _complete(row, folder):
        return ready
    lacking = [f for f in row.files if not _whole(folder / f.remote.name, f.remote)]
    if lacking and offline:
        raise _not_here(row, lacking, folder=folder, data_root=data_root)
    make_folder(folder)
    with exclusive(folder / f"{row.name}.lock", say=say):
        if _complete(row, folder):  # another process has just brought it
            return ready
        if lacking:
            size = megabytes(sum(file.remote.size for file in lacking))
            tell(f"{row.title} is not on this machine: downloading {size} to {folder}, checked by sha256")
        reserve = len(row.members) * row.member_size
        for file in row.files:
            target = folder / file.remote.name
            fetch(file.remote, target, reserve=reserve, say=say, allow_loopback=allow_loopback)
        if row.members:
            _unpack(row, folder / row.files[0].remote.name, ready)
            (folder / row.files[0].remote.name).unlink()
    return ready


def _whole(path: Path, remote: Remote) -> bool:
    return path.is_file() and not mismatch(path, remote)


def _complete(row: NamedSet, folder: Path) -> bool:
    """Whether a folder of the cache holds the whole data set."""
    if row.members:
        return _has_members(row, folder / row.folders[0])
    return all(_whole(folder / file.remote.name, file.remote) for file in row.files)


def _has_members(row: NamedSet, folder: Path) -> bool:
    paths = [folder / name for name in row.members]
    return all(path.is_file() and path.stat().st_size == row.member_size for path in paths)


def _not_here(
    row: NamedSet, lacking: list[NamedFile], *, folder: Path, data_root: Path | None
) -> ConvworksError:
    looked = [str(data_root / place) for place in row.folders] if data_root is not None else []
    size = megabytes(sum(file.remote.size for file in lacking))
    first = lacking[0].remote
    return ConvworksError(
        "D161",
        f"{row.title} is not on this machine, and working offline forbids downloading it ({size})",
        where="looked in " + ", ".join([*looked, str(folder)]),
        why="wanted: "
        + ", ".join(file.remote.name for file in lacking)
        + f" from {first.urls[0].rpartition('/')[0]}/",
        try_=manual_command(first, folder / first.name),
    )


def _in_data_root(row: NamedSet, data_root: Path, *, cache: Path, say: Say) -> Path | None:
    """The copy under the data root, or None where there is none or only a part of one."""
    for place in row.folders:
        folder = data_root / place
        if row.members and _has_members(row, folder):
            return folder
        if not row.members and _published(row, folder, say=say):
            return folder
    if row.members:
        archive = data_root / row.files[0].remote.name
        if archive.is_file():
            return _from_archive(row, archive, cache=cache)
    stand_in = data_root / row.stand_in
    return stand_in if row.stand_in and stand_in.is_file() else None


def _published(row: NamedSet, folder: Path, *, say: Say) -> bool:
    """Whether the folder holds all files, compressed or not. Raises D165 where one has other bytes."""
    lacking = []
    for file in row.files:
        paths = [folder / file.remote.name, folder / file.remote.name.removesuffix(".gz")]
        present = [path for path in paths if path.is_file()]
        if not present:
            lacking.append(file.remote.name)
        for path in present:
            if _whole(path, file.remote):
                continue
            found = _content_md5(path, cap=file.content_size)
            if found != file.content_md5:
                raise _not_published(row, path, found=found, expected=file.content_md5)
    if lacking and folder.is_dir():
        say(f"{folder} is not used for {row.title}: it lacks {', '.join(lacking)}")
    return not lacking


def _content_md5(path: Path, *, cap: int) -> str:
    """md5 of the bytes of a file, after gunzip where it is a .gz; in words where they end badly."""
    digest, count = hashlib.md5(usedforsecurity=False), 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            while block := file.read(1 << 20):
                count += len(block)
                if count > cap:  # also stops a gzip bomb
                    return f"that of more than {cap:,} bytes"
                digest.update(block)
    except (OSError, EOFError, zlib.error) as problem:  # OSError covers gzip.BadGzipFile
        return f"not to be had ({problem})"
    return digest.hexdigest()


def _not_published(row: NamedSet, path: Path, *, found: str, expected: str) -> ConvworksError:
    return ConvworksError(
        "D165",
        f"{path.name} is not the published file of {row.title}",
        where=f"{path}: the md5 of its content is {found}, expected {expected}",
        why="numbers on other data cannot be compared; give the folder by its path to use it as it is",
        try_=f"convworks train {shlex.quote(str(path.parent))}",
    )


def _from_archive(row: NamedSet, archive: Path, *, cache: Path) -> Path:
    """Unpack an archive of the data root; the result goes to the cache, for the root is only read."""
    folder = cache / "datasets" / row.name
    ready = folder / row.folders[0]
    if _has_members(row, ready):
        return ready
    if problem := mismatch(archive, row.files[0].remote):
        raise ConvworksError(
            "D165",
            f"{archive.name} is not the published file of {row.title}",
            where=f"{archive}: {problem}",
            why="an archive that was cut off or changed would give other numbers",
            try_=manual_command(row.files[0].remote, archive),
        )
    make_folder(folder)
    with exclusive(folder / f"{row.name}.lock"):
        if not _has_members(row, ready):
            _unpack(row, archive, ready)
    return ready


def _unpack(row: NamedSet, archive: Path, ready: Path) -> None:
    """Write the members to a folder beside the final one, then rename it: it is whole or absent."""
    temporary = ready.with_name(f".tmp-{uuid.uuid4().hex}")
    wanted = {f"{row.folders[0]}/{name}": name for name in (*row.members, *row.extras)}
    try:
        temporary.mkdir()
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = wanted.pop(member.name.removeprefix("./"), None)
                content = tar.extractfile(member) if name is not None and member.isfile() else None
                if name is not None and content is not None:
                    with (temporary / name).open("wb") as file:
                        shutil.copyfileobj(content, file)
                    durable.fsync_file(temporary / name)
        if not _has_members(row, temporary):
            lacking = sorted(set(row.members) - {path.name for path in temporary.iterdir()})
            raise _damaged(archive, f"it lacks {', '.join(lacking) or 'a part of a file'}")
        durable.fsync_folder(temporary)
        shutil.rmtree(ready, ignore_errors=True)  # an incomplete one: this cache is ours, and locked
        durable.rename(temporary, ready)
        durable.fsync_folder(ready.parent)
    except (tarfile.TarError, EOFError, zlib.error) as problem:
        raise _damaged(archive, str(problem)) from problem
    except OSError as problem:
        raise disk_full(ready, problem.strerror or str(problem)) from problem
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _damaged(archive: Path, detail: str) -> ConvworksError:
    return ConvworksError("D166", f"{archive.name} cannot be unpacked: {detail}", where=str(archive))
