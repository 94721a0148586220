"""Files that others may have written or put in the way, and what they say: tuning's cache, and results of benchmarks.

Only regular files are opened, never through a symbolic link, and only so much of them is read. What they say is checked
before it is used, and can be printed as it is. A file that is written is replaced as a whole, by a new one beside it.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

MOST_BYTES = 16 << 20
_MOST_TEXT = 4096
# Nothing that is measured is outside of these, and all that is computed from numbers within them is finite.
_LEAST_NUMBER, _MOST_NUMBER = 1e-30, 1e30
_MOST_DEPTH = 8


def open_file(path: Path, flags: int, mode: int = 0o666) -> int:
    """A descriptor of a regular file, and never a wait for one; an OSError names anything else."""
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    except OSError:
        _regular(path)  # says it better
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return descriptor


def _regular(path: Path) -> os.stat_result | None:
    """What is known of a regular file, None where there is none; an OSError where something else has this name."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(found.st_mode):
        raise OSError(errno.ELOOP, "it is a symbolic link; name the file itself", str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return found


def read_text(path: Path, *, own: bool = False) -> str:
    """The text of a file; with `own`, of one that belongs to this user or to root.

    Raises
    ------
    OSError
        When it cannot be read, is not a regular file, or belongs to somebody else.
    ValueError
        When it is too large or not UTF-8.
    """
    with os.fdopen(open_file(path, os.O_RDONLY), "rb") as file:
        owner = os.fstat(file.fileno()).st_uid
        if own and owner not in (os.geteuid(), 0):
            raise PermissionError(errno.EPERM, f"it belongs to user {owner}, not to {os.geteuid()}", str(path))
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"{path} is larger than {MOST_BYTES >> 20} MB")
    return data.decode("utf-8")


def replace_bytes(path: Path, data: bytes, *, private: bool = False) -> None:
    """Replace a regular file, or make one, at once: its readers get the old one or the new one.

    An old file's owner and mode are kept; a `private` one is for this user alone.
    """
    new = path.with_name(f".convbound-{secrets.token_hex(8)}.new")
    try:
        before = _regular(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(new, flags, 0o600 if private else 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                if before is not None and not private:
                    with suppress(PermissionError):
                        os.fchown(descriptor, before.st_uid, before.st_gid)
                    os.fchmod(descriptor, before.st_mode & 0o777)
            new.replace(path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
    except OSError as error:  # of the file that was meant, whose name is the same each time
        raise OSError(error.errno, error.strerror, str(path)) from error


def replace_text(path: Path, text: str, *, private: bool = False) -> None:
    """The same for text."""
    replace_bytes(path, text.encode("utf-8"), private=private)


def own_folder(path: Path) -> None:
    """Make a folder that only this user can use; an OSError where there is one in which others may put files."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, f"it belongs to user {found.st_uid}, not to {os.geteuid()}", str(path))
    if found.st_mode & stat.S_IWOTH:
        raise PermissionError(errno.EPERM, "everybody may write into it", str(path))


def printable(text: str) -> str:
    """A text with escapes for what would steer a terminal, and cut where it is too long."""
    shown = text if len(text) <= _MOST_TEXT else text[: _MOST_TEXT - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)


def parse_json(text: str) -> Any:
    """What JSON says, its texts made printable; a ValueError for deep nesting and for numbers that nobody measures."""
    try:
        return _checked(json.loads(text, parse_constant=_refuse_number), _MOST_DEPTH)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _checked(value: Any, depth: int) -> Any:
    if depth == 0:
        raise ValueError("it is nested too deeply")
    if isinstance(value, dict):
        return {printable(name): _checked(entry, depth - 1) for name, entry in value.items()}
    if isinstance(value, list):
        return [_checked(entry, depth - 1) for entry in value]
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, int | float) and value != 0 and not _LEAST_NUMBER <= abs(value) <= _MOST_NUMBER:
        _refuse_number("what is infinite, beyond 1e30 or nearer to zero than 1e-30")
    return value


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number of a result")


def check_kinds(record: Any, kinds: Mapping[str, Any]) -> None:
    """Raise a ValueError unless a record has all these entries, each of its kind."""
    if not isinstance(record, dict):
        raise ValueError(f"{type(record).__name__} in the place of an object")
    for name, kind in kinds.items():
        if name not in record:
            raise ValueError(f"{name} is missing")
        if not isinstance(record[name], kind):
            raise ValueError(f"{name} is {type(record[name]).__name__} and not {getattr(kind, '__name__', kind)}")
