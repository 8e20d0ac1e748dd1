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
