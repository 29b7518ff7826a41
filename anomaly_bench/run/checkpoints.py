"""Checkpoints that are whole, or are known not to be: checksummed, read back, and never a pickle that runs code.

A file is what `torch.save` writes, and a last line with the SHA-256 of all before it.  Beside `last.ckpt` the one
before it stays as `previous.ckpt`, so that one good checkpoint is there whatever happens to the other.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import IO, Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO

from anomaly_bench.files import BLOCK

MARK = b"\nanomaly_bench checkpoint, SHA-256 "
END_BYTES = len(MARK) + 64  # hex digits
log = logging.getLogger("anomaly_bench")


class DamagedCheckpoint(Exception):
    """A checkpoint that cannot be used; the text says why."""


class CheckedIO(CheckpointIO):
    """How Lightning writes and reads checkpoints: `write` and `read`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write(Path(path), checkpoint)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint beside `path`, read it back, and only then put it in place; the one there becomes `previous`.

    Raises OSError or RuntimeError where it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("wb") as file:
            hashing = _Hashing(file)
            torch.save(content, hashing)  # type: ignore[arg-type]  # it calls write alone
            file.write(MARK + hashing.digest.hexdigest().encode())
            file.flush()
            os.fsync(file.fileno())
        try:
            verify(partial)
        except DamagedCheckpoint as error:
            raise OSError(f"what was written does not read back: {error}") from error
        if path.exists():
            path.replace(previous(path))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's content, on the CPU; tensors and plain values only.  Raises DamagedCheckpoint."""
    verify(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle that asks for code, an archive of something else
        raise DamagedCheckpoint(f"holds something else than tensors and numbers ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise DamagedCheckpoint(f"holds {type(content).__name__}, no state")
    return content


def verify(path: Path) -> None:
    """Raises DamagedCheckpoint unless the file is there and its checksum fits; reads it block by block."""
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size - END_BYTES
            file.seek(max(size, 0))
            end = file.read(END_BYTES)
            if size <= 0 or not end.startswith(MARK):
                raise DamagedCheckpoint("was cut off, or is no checkpoint of this program")
            file.seek(0)
            digest = hashlib.sha256()
            while size and (block := file.read(min(BLOCK, size))):
                digest.update(block)
                size -= len(block)
    except FileNotFoundError:
        raise DamagedCheckpoint("is missing") from None
    except OSError as error:
        raise DamagedCheckpoint(f"cannot be read: {error.strerror or error}") from error
    if end != MARK + digest.hexdigest().encode():
        raise DamagedCheckpoint("does not fit its checksum")


def usable(path: Path) -> Path | None:
    """`path` or the checkpoint before it, whichever can be read; None where there is none.

    Says in one line each which cannot be used; a damaged one is set aside as `damaged.ckpt`, out of the next one's way.
    """
    if not (path.exists() or previous(path).exists()):
        return None
    for candidate in (path, previous(path)):
        try:
            if "state_dict" not in read(candidate):
                raise DamagedCheckpoint("holds no state_dict")
            return candidate
        except DamagedCheckpoint as error:  # noqa: PERF203  two at most
            log.warning("%s %s", candidate, error)
            if candidate.exists():
                candidate.replace(path.with_name("damaged.ckpt"))
    log.warning("%s: no checkpoint can be used, so this stage starts anew", path.parent.name)
    return None


def previous(path: Path) -> Path:
    """Where the checkpoint before `path` is kept."""
    return path.with_name("previous.ckpt")


class _Hashing:
    """A file to write into that computes the SHA-256 of what is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, block: bytes) -> int:
        self.digest.update(block)
        return self.file.write(block)

    def flush(self) -> None:
        self.file.flush()
