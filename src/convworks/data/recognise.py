"""Which files are images, and which were never meant to be data: by name, then by first bytes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

HEAD_BYTES = 32  # enough for every signature below

# Extensions that say "this is meant to be an image": always entries, so that one that cannot be read is seen.
# fmt: off
IMAGE_SUFFIXES = frozenset((
    "jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "bmp", "dib", "gif", "tif", "tiff", "heic", "heif",
    "avif", "jxl", "jp2", "ppm", "pgm", "pbm", "pnm", "tga",
))
# Extensions that say "this is no image". A file with any other ending is judged by its first bytes.
OTHER_SUFFIXES = frozenset((
    "txt", "md", "csv", "tsv", "json", "jsonl", "xml", "yaml", "yml", "toml", "ini", "cfg", "log", "html",
    "htm", "pdf", "doc", "docx", "xls", "xlsx", "ppt", "pptx", "rtf", "py", "ipynb", "js", "css", "sh", "bat",
    "exe", "zip", "tar", "gz", "tgz", "bz2", "xz", "7z", "rar", "mp3", "wav", "mp4", "avi", "mov", "mkv",
    "webm",
    "npy", "npz", "mat", "h5", "hdf5", "pkl", "pickle", "pt", "pth", "onnx", "safetensors", "db", "sqlite",
    "bin", "dat", "svg", "eps", "ps", "ai", "psd", "aae", "xmp",
))
# fmt: on
_JUNK = {
    "__macosx": "left by macOS",
    "thumbs.db": "left by Windows",
    "ehthumbs.db": "left by Windows",
    "desktop.ini": "left by Windows",
    "$recycle.bin": "left by Windows",
    "system volume information": "left by Windows",
    "@eadir": "left by a NAS",
    "#recycle": "left by a NAS",
    "lost+found": "left by the file system",
}


def junk_reason(name: str) -> str | None:
    """Why a file or folder of this name is never data, or None."""
    if name == ".ipynb_checkpoints":
        return "notebook checkpoints"
    return _JUNK.get(name.lower()) or ("hidden" if name.startswith(".") else None)


def has_image_signature(head: bytes) -> bool:
    """Whether the first bytes are those of a JPEG, PNG, GIF, WebP, TIFF or BMP file."""
    if head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")):
        return True
    if head.startswith(b"RIFF"):
        return head[8:12] == b"WEBP"
    # BMP: two letters alone are too weak; the reserved bytes are zero and the header has a known size
    return (
        head[:2] == b"BM" and head[6:10] == bytes(4) and head[14:15] in (b"\x0c", b"\x28", b"\x6c", b"\x7c")
    )


def suffix_of(path: str) -> str:
    """'jpg' of 'cat/IMG 1.JPG'; empty where the file name has no dot."""
    stem, dot, suffix = path.rpartition("/")[2].rpartition(".")
    return suffix.lower() if dot and stem else ""


def read_head(path: bytes | Path) -> bytes:
    """The first bytes of a regular file; never blocks. Raises OSError, also for what is no regular file."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError("not a regular file")
        return os.read(handle, HEAD_BYTES)
    finally:
        os.close(handle)
