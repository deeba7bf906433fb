"""Files by relative path, from a folder or from an archive alike, and the source of image files over them."""

from __future__ import annotations

from abc import ABC, abstractmethod

from convworks.data.layout import Found, understand
from convworks.data.sources import Listing, Source, shown
from convworks.errors import ConvworksError

MEMBER_LIMIT = 512 * 2**20  # bytes of one image file, as in training
ARRAY_LIMIT = 50 * 10**9  # bytes of one array file


class MemberError(ConvworksError):
    """D110: one file of a container cannot be read; `reason` in short words."""

    def __init__(self, path: str, reason: str, *, where: str = "") -> None:
        self.reason = reason
        super().__init__("D110", f"cannot read '{shown(path)}': {reason}", where=where)


class Container(ABC):
    """A folder or an archive. `read` and `head` are safe from several threads at once."""

    kind: str
    root: str | None = None  # the folder on disk, where there is one

    @abstractmethod
    def find(self) -> Found:
        """Every file and folder, junk taken out."""

    @abstractmethod
    def has(self, path: str) -> bool:
        """Whether there is a file of this relative path."""

    @abstractmethod
    def head(self, path: str) -> bytes:
        """The first 32 bytes. Raises OSError or ConvworksError."""

    @abstractmethod
    def read(self, path: str, *, limit: int = MEMBER_LIMIT) -> bytes:
        """All bytes of a file of at most `limit` bytes. Raises ConvworksError D110-D139."""

    def close(self) -> None:  # noqa: B027  # a folder has nothing to give back
        """Give file handles back."""


class FileSource(Source):
    """Image files of a container, in the order of the listing."""

    def __init__(
        self, listing: Listing, container: Container, *, location: str, name: str, kind: str | None = None
    ) -> None:
        super().__init__(listing, location=location, name=name, kind=kind or container.kind)
        self._container = container

    def read(self, index: int) -> bytes:
        return self._container.read(self.entries[index].path)

    def close(self) -> None:
        self._container.close()


def open_container(container: Container, *, location: str, name: str, keep_empty: bool) -> Source:
    """What lies in a folder or archive: IDX files, CIFAR binary files, or folders of images."""
    from convworks.data import arrays

    found = container.find()
    source = arrays.open_array_files(container, found, location=location, name=name)
    if source is not None:
        container.close()
        return source
    listing = understand(found, location=location, head=container.head, keep_empty=keep_empty)
    return FileSource(listing, container, location=location, name=name)
