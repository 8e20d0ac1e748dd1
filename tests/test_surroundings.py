"""What `check` warns of on this host, as it is."""

from __future__ import annotations

import os
from pathlib import Path

from vigiloconn.cli.surroundings import surroundings
from vigiloconn.options import parse_settings


def warnings(text: str) -> str:
    return "\n".join(surroundings(parse_settings(text)))


def test_a_host_that_has_everything_is_warned_of_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "cmd")
    (tmp_path / "hosts").touch()
    text = (
        f"[connector]\nbackup_file = {tmp_path}/b\nsocket_group = root\n"
        f"[bus]\nqueue = q\n"
        f"[connector-nagios]\nlisten_unix = {tmp_path}/s\nnagios_pipe = {tmp_path}/cmd\n"
        f"nagios_config = {tmp_path}/hosts\n"
    )
    if os.geteuid() == 0:
        assert warnings(text) == ""


def test_a_directory_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    assert f"backup_file: {tmp_path} is a directory" in warnings(f"[connector]\nbackup_file = {tmp_path}\n")


def test_what_is_missing_is_named_with_its_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = warnings(
        f"[connector]\nbackup_file = {tmp_path}/none/b\nsocket_group = no-such-group\n"
        f"[bus]\nqueue = q\n"
        f"[connector-nagios]\nlisten_unix = {tmp_path}/none/s\nnagios_pipe = {tmp_path}/file\n"
        f"nagios_config = {tmp_path}/hosts\n"
    )
    assert "socket_group: this host has no group 'no-such-group'" in found
    assert f"backup_file: directory {tmp_path}/none does not exist" in found
    assert f"listen_unix: directory {tmp_path}/none does not exist" in found
    assert f"nagios_pipe {tmp_path}/file: expected a FIFO" in found
    assert f"nagios_config {tmp_path}/hosts: there is no such file" in found


def test_a_pipe_that_nagios_has_not_made_yet_is_said(tmp_path: Path) -> None:
    found = warnings(f"[connector-nagios]\nnagios_pipe = {tmp_path}/cmd\n")
    assert f"nagios_pipe {tmp_path}/cmd: No such file or directory" in found


def test_a_followed_file_is_one_that_can_be_read_or_comes_later(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").touch()
    follow = ", ".join(str(tmp_path / name) for name in ("fifo", "file", "later")) + f", {tmp_path}"
    found = warnings(f"[connector-nagios]\nlisten_unix =\nfollow = {follow}\n")
    assert f"follow {tmp_path}: expected a file that lines are appended to, found a directory" in found
    assert f"follow {tmp_path}/fifo: expected a file that lines are appended to, found a FIFO" in found
    assert f"{tmp_path}/file" not in found
    assert f"{tmp_path}/later" not in found


def test_names_that_are_nearly_a_list_are_named_in_every_section(tmp_path: Path) -> None:
    found = warnings("[bus]\nhosts = a1\nqueue = q\nsubscriptions = event;state\n[bus:far]\nsubscriptions = a b\n")
    assert "[bus] subscriptions: 'event;state' is one name" in found
    assert "[bus:far] subscriptions: 'a b' is one name" in found
