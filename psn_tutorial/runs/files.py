"""Files that survive a crash: complete under their own name, or not there.

Each is written under a temporary name, synced to the disk and renamed. One process at a time
writes to one file. Of a record that will not change any more, <file>.gz may stand in place of
<file>: ``read_bytes`` and what builds on it read either.
"""

import contextlib
import errno
import gzip
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from psn_tutorial.errors import UserError
from psn_tutorial.settings import Settings, from_mapping
from psn_tutorial.strict_json import parse_json


def finite_or_null(value: Any) -> Any:
    """Return ``value`` as JSON can hold it: NaN and infinities become None, tensors lists."""
    if hasattr(value, "tolist"):  # NumPy and torch, scalars and arrays
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): finite_or_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_null(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` to ``path`` in one piece: readers see the old file or the new, never half.

    NaN and infinities become null. Raises UserError when the file cannot be written; the old one
    is then untouched.
    """
    replace_file(path, json_bytes(value))


def replace_file(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path`` in one piece, as ``write_json`` does and with its errors."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.new")
    with in_words(path, "what stood there is kept"):
        try:
            write_bytes(temporary, data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def stands(path: str | Path) -> bool:
    """Is there a file ``path``, as it is or as ``path``.gz?"""
    return Path(path).is_file() or _packed(path).is_file()


def read_bytes(path: str | Path) -> bytes:
    """The content of the file ``path``, or of ``path``.gz. Raises FileNotFoundError, and EOFError or
    gzip.BadGzipFile for a damaged one."""
    path = Path(path)
    if not path.is_file() and _packed(path).is_file():
        return gzip.decompress(_packed(path).read_bytes())
    return path.read_bytes()


def pack(path: str | Path, data: bytes) -> None:
    """Put ``path``.gz, which holds ``data``, in place of the file ``path``. The same data give the same bytes."""
    replace_file(_packed(path), gzip.compress(data, mtime=0))
    Path(path).unlink(missing_ok=True)


def _packed(path: str | Path) -> Path:
    return Path(f"{path}.gz")


def read_json(path: str | Path) -> Any:
    """Return what the JSON file ``path`` holds. Raises UserError, naming the place of a fault."""
    path = Path(path)
    try:
        return parse_json(read_bytes(path).decode())
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except (OSError, EOFError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file in UTF-8") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def read_lines(path: str | Path, cls: type[Settings]) -> list[Settings]:
    """One ``cls``, a dataclass, from the JSON object on each line; [] where there is no file.

    Raises UserError, naming the line, as :func:`psn_tutorial.settings.from_mapping` does.
    """
    if not Path(path).is_file():
        return []
    found = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        where = f"{path}, line {number}"
        try:
            fields = parse_json(line)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None
        found.append(from_mapping(cls, fields, where))
    return found


def json_bytes(value: Any) -> bytes:
    text = json.dumps(finite_or_null(value), indent=1, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


@contextlib.contextmanager
def in_words(what: str | Path, consequence: str) -> Iterator[None]:
    """Turn an OSError into a UserError: what cannot be written, why, and the ``consequence``."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "the disk is full" if full else (error.strerror or str(error))
        raise UserError(f"cannot write {what}: {why}; {consequence}") from error


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Make ``folder``, a temporary name; it is removed again unless renamed before the end."""
    shutil.rmtree(folder, ignore_errors=True)  # what a killed process left
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` and wait until it is on the disk."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def append_line(path: Path, line: bytes) -> None:
    """Append ``line`` whole or not at all (but for a kill between two system calls)."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size, written = os.fstat(descriptor).st_size, 0
        try:
            while written < len(line):
                written += os.write(descriptor, line[written:])
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


def drop_half_line(path: Path) -> None:
    """Cut off a last line that does not end: its writer was killed."""
    data = path.read_bytes() if path.exists() else b""
    if not data.endswith(b"\n") and data:
        os.truncate(path, data.rfind(b"\n") + 1)


def sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
