"""The file of a package: a zip archive, of which every byte that is read is known to be right."""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath

_END = b"PK\x05\x06"  # a record of 22 bytes, the last two the length of a comment
_ENCRYPTED = 0x1


def text_of(path: Path, entry: str) -> str:
    """The one entry whose name ends so, once the whole archive is known to be as torch writes it.

    Raises:
        ValueError: it is damaged, or what another reader might read in another way.
        OSError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check(archive, path)
            return _only(archive, entry)
    except (OSError, ValueError):
        raise
    except Exception as error:  # of many kinds, as archives may be broken in many ways
        raise ValueError(str(error) or type(error).__name__) from error


def _only(archive: zipfile.ZipFile, entry: str) -> str:
    names = [name for name in archive.namelist() if name.endswith(f"/{entry}")]
    if len(names) != 1:
        raise ValueError(f"it has {len(names)} entries {entry}")
    return archive.read(names[0]).decode()


def _check(archive: zipfile.ZipFile, path: Path) -> None:
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names):
        raise ValueError("two of its entries have one name")
    roots = {_root(name) for name in names}
    if len(roots) != 1:
        raise ValueError("its entries are not in one folder")
    if any(entry.flag_bits & _ENCRYPTED for entry in entries):
        raise ValueError("it is encrypted")
    # As they are stored, they are no more than the file: none of them unpacks to a flood.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("it is compressed")
    if any(entry.compress_size != entry.file_size for entry in entries):
        raise ValueError("the sizes of an entry differ")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError("its entries overlap")
    # Where all of the file is the archive, all readers find the same entries.
    if min(entry.header_offset for entry in entries) != 0 or not _ends_at_its_end(path):
        raise ValueError("there is something before or after the archive")
    damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"it is damaged: the checksum of {damaged} does not hold")


def _root(name: str) -> str:
    """The first folder of an entry's path, which leads nowhere else."""
    parts = PurePosixPath(name).parts
    plain = "/".join(parts) == name and not any(c in name for c in "\\:\0")
    if not plain or len(parts) < 2 or ".." in parts or parts[0] == "/":
        raise ValueError(f"an entry has the name {name!r}")
    return parts[0]


def _ends_at_its_end(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 22))
        end = file.read()
    return end.startswith(_END) and end.endswith(b"\0\0")
