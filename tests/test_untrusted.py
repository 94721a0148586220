"""Files that others may have written or put in the way: read in part or not at all, never written through."""

from __future__ import annotations

import os
import resource
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convbound import untrusted
from convbound.untrusted import (
    MOST_BYTES,
    check_kinds,
    own_folder,
    parse_json,
    printable,
    read_text,
    replace_bytes,
    replace_text,
)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as endpoint:
        endpoint.bind(str(path))


def linked(path: Path) -> None:
    path.with_name("target").write_text("kept")
    path.symlink_to("target")


IN_THE_WAY: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a pipe": (os.mkfifo, "not a regular file|No such device"),
    "a folder": (Path.mkdir, "not a regular file|directory"),
    "a socket": (listening, "not a regular file|No such device"),
    "a link": (linked, "is a symbolic link; name the file itself"),
    "a broken link": (lambda path: path.symlink_to("nowhere"), "is a symbolic link"),
    "a link to itself": (lambda path: path.symlink_to(path), "is a symbolic link"),
    "a link to a device": (lambda path: path.symlink_to("/dev/null"), "is a symbolic link"),
}


@pytest.mark.parametrize("kind", IN_THE_WAY)
def test_only_regular_files_are_opened(kind: str, tmp_path: Path):
    path = tmp_path / "file"
    make, message = IN_THE_WAY[kind]
    make(path)
    before = path.lstat()
    for use in (read_text, lambda path: replace_text(path, "new"), lambda path: untrusted.open_file(path, os.O_RDWR)):
        with pytest.raises(OSError, match=message) as refused:
            use(path)
        assert refused.value.filename == str(path)
    assert path.lstat() == before
    assert {entry.name for entry in tmp_path.iterdir()} - {"target"} == {"file"}
    if kind == "a link":
        assert path.read_text() == "kept"


def test_devices_are_neither_read_nor_replaced():
    for use in (read_text, lambda path: replace_text(path, "new")):
        with pytest.raises(OSError, match="not a regular file"):
            use(Path("/dev/null"))
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_so_much_is_read_and_no_more(tmp_path: Path):
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(MOST_BYTES)
    assert len(read_text(path)) == MOST_BYTES
    with path.open("ab") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="is larger than 16 MB"):
        read_text(path)


def test_what_is_not_utf8_is_refused(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="utf-8"):
        read_text(tmp_path / "file")


def test_files_of_other_users_are_not_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    replace_text(tmp_path / "file", "mine")
    assert read_text(tmp_path / "file", own=True) == "mine"
    own_folder(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(PermissionError, match="belongs to user"):
        own_folder(tmp_path)
    if os.getuid():  # what belongs to root is trusted
        with pytest.raises(PermissionError, match="belongs to user"):
            read_text(tmp_path / "file", own=True)


def test_folders_are_made_for_one_user_alone(tmp_path: Path):
    own_folder(tmp_path / "a" / "b")
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    (tmp_path / "a" / "b").chmod(0o777)
    with pytest.raises(PermissionError, match="everybody may write into it"):
        own_folder(tmp_path / "a" / "b")


def test_a_file_is_replaced_as_a_whole_and_keeps_its_mode(tmp_path: Path):
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o640)
    with path.open() as reader:
        replace_text(path, "new")
        assert (reader.read(), path.read_text()) == ("old", "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    replace_text(path, "secret", private=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "file"
    path.write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as failed:
            replace_bytes(path, b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert failed.value.filename == str(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


NO_JSON = ["", "[1", "\ufeff[]", "'a'", "[" * 9 + "]" * 9, "[" * 100_000, '{"a":' * 100_000]
NO_NUMBERS = ["NaN", "[-Infinity]", "1e999", "1e-320", "1" + "0" * 400, "1" * 5000]


@pytest.mark.parametrize("text", NO_JSON + NO_NUMBERS, ids=lambda text: text[:8])
def test_json_is_refused_with_one_kind_of_error(text: str):
    with pytest.raises(ValueError, match=r"nested|number|limit|Expecting|BOM"):
        parse_json(text)


def test_texts_of_json_can_be_printed():
    assert parse_json('{"\\u001b[2J": ["a\\nb", "\\udcff", "\\u202e", "é"], "b": [1, 2.5, true, null]}') == {
        "\\x1b[2J": ["a\\nb", "\\udcff", "\\u202e", "é"],
        "b": [1, 2.5, True, None],
    }


def test_printable_texts():
    assert printable("plain é → 中") == "plain é → 中"
    assert printable("\x1b]0;title\a\r\x9b31m\u2028") == "\\x1b]0;title\\x07\\r\\x9b31m\\u2028"
    assert printable("x" * 10_000) == "x" * 4095 + "…"


def test_kinds_of_entries():
    kinds = {"a": str, "b": int | float | None}
    check_kinds({"a": "", "b": 1.5, "c": []}, kinds)
    check_kinds({"a": "", "b": None}, kinds)
    for record, message in (
        ({"a": ""}, "b is missing"),
        ({"a": 1, "b": 1}, "a is int and not str"),
        ({"a": "", "b": "1"}, r"b is str and not int \| float \| None"),
        ([], "list in the place of an object"),
    ):
        with pytest.raises(ValueError, match=message):
            check_kinds(record, kinds)
