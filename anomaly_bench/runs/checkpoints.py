"""Checkpoints with a checksum, read back after they are written; none is a pickle that could run code.

A file is what `torch.save` writes, and a last line with the SHA-256 of all before it.  Beside `last.ckpt` the one
before it stays as `previous.ckpt`, so that whatever happens to one file, the other can be used.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from pathlib import Path
from typing import IO, Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO

from anomaly_bench.errors import UserError
from anomaly_bench.files import new_file, sha256_of, unreadable, unwritable

MARK = b"\nanomaly_bench checkpoint, SHA-256 "
END_BYTES = len(MARK) + 64  # hex digits
TRAINING = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "pytorch-lightning_version")  # needed to resume
DAMAGED = "damaged.ckpt"  # the new name of a checkpoint that could not be used
log = logging.getLogger("anomaly_bench")


class DamagedCheckpoint(Exception):
    """The checkpoint cannot be used; the text says why."""


class CheckedIO(CheckpointIO):
    """Lets Lightning write and read checkpoints by `write` and `read`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint as `write` does."""
        write(Path(path), checkpoint)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Return a checkpoint that `find_usable` has just verified."""
        return _load(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint, if it is there."""
        Path(path).unlink(missing_ok=True)


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint beside `path`, read it back, and only then rename it; the older one becomes `previous`.

    Raises UserError where it cannot be written, or holds what `read` would refuse.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)  # of a killed attempt
        with new_file(path, partial) as file:
            _fill(file, content)
            written = Path(file.name)
            verify(written)
            if objects := torch.serialization.get_unsafe_globals_in_checkpoint(written):
                what = f"cannot hold {', '.join(sorted(objects))}, only tensors and plain values"
                raise UserError(str(path), what, "the method's state must consist of these")
            if path.exists():
                path.replace(previous(path))
    except OSError as error:
        raise unwritable(path, error) from error
    except DamagedCheckpoint as error:
        raise unwritable(path, OSError(f"what was written {error}")) from error


def _fill(file: IO[bytes], content: dict[str, Any]) -> None:
    """Write the content and its checksum, and flush them to the disk.  Raises OSError."""
    hashing = _Hashing(file)
    try:
        torch.save(content, hashing)  # type: ignore[arg-type]  # it calls write and flush alone
    except RuntimeError as error:  # torch's archive writer says nothing of a full disk
        if hashing.error:
            raise hashing.error from error
        raise
    file.write(MARK + hashing.digest.hexdigest().encode())
    file.flush()
    os.fsync(file.fileno())


def read(path: Path, mapped: bool = False) -> dict[str, Any]:
    """Return a checkpoint's content, on the CPU; tensors and plain values only.  Raises DamagedCheckpoint.

    mapped: a tensor is read from the file where it is used.
    """
    verify(path)
    return _load(path, mapped)


def _load(path: Path, mapped: bool = False) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a pickle that asks for code, an archive of something else
        if isinstance(error, MemoryError) or "allocate memory" in str(error):  # not the file's fault
            raise
        raise DamagedCheckpoint(f"holds something else than tensors and numbers ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise DamagedCheckpoint(f"holds {type(content).__name__}, no state")
    return content


def verify(path: Path) -> None:
    """Raises DamagedCheckpoint unless the file is there and its checksum fits; reads it block by block.

    Raises UserError where this process may not read it, or cannot now.
    """
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size - END_BYTES
            file.seek(max(size, 0))
            end = file.read(END_BYTES)
            if size <= 0 or not end.startswith(MARK):
                raise DamagedCheckpoint("was cut off, or is no checkpoint of this program")
            file.seek(0)
            digest = sha256_of(file, size)
    except FileNotFoundError:
        raise DamagedCheckpoint("is missing") from None
    except OSError as error:
        if error.errno != errno.EIO:
            raise unreadable(path, error) from error
        raise DamagedCheckpoint(f"cannot be read: {error.strerror}") from error
    if end != MARK + digest.encode():
        raise DamagedCheckpoint("does not fit its checksum")


def find_usable(path: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the checkpoint that a training can go on from, `path` or the one before it, and its content, or None.

    The content is mapped: what is not looked at is not read.

    Warns of each that cannot be used.  A damaged one is renamed to DAMAGED, so that the next one that is written does
    not make it `previous`.
    """
    if not path.exists() and not previous(path).exists():
        if path.parent.is_dir():  # the first checkpoint was written
            log.warning("%s is missing, so this stage starts anew", path)
        return None
    for candidate in (path, previous(path)):
        try:
            content = read(candidate, mapped=True)
            if lacking := [key for key in TRAINING if key not in content]:
                raise DamagedCheckpoint(f"is not of a training that can go on: it lacks {', '.join(lacking)}")
            return candidate, content
        except DamagedCheckpoint as error:  # noqa: PERF203  two at most
            log.warning("%s %s", candidate, error)
            if candidate.exists():
                candidate.replace(path.with_name(DAMAGED))
    log.warning("%s: no checkpoint can be used, so this stage starts anew", path.parent.name)
    return None


def previous(path: Path) -> Path:
    """Return where the checkpoint before `path` is."""
    return path.with_name("previous.ckpt")


class _Hashing:
    """Writes to a file, computes the SHA-256 of what is written, and keeps the error that ended it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, block: bytes) -> int:
        """Write a block.  Raises OSError, and keeps it in `error`."""
        self.digest.update(block)
        try:
            return self.file.write(block)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Flush the file."""
        self.file.flush()
