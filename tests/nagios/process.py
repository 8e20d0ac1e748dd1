"""A private Nagios: an ordinary process with a directory of its own. Knows Nagios' files, not the connector."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil

from tests.nagios.objects import HOST, common
from tests.support import children
from tests.support.connector import ROOT
from tests.support.wait import wait_until

PROGRAM = Path("/usr/sbin/nagios4")
SHIPPED = ROOT / "conf" / "nagios"
#: Whom Nagios becomes when root starts it.
USER = GROUP = "nagios"

_MAIN = """\
log_file={directory}/nagios.log
object_cache_file={directory}/objects.cache
status_file={directory}/status.dat
state_retention_file={directory}/retention.dat
temp_file={directory}/nagios.tmp
temp_path={directory}
check_result_path={directory}/results
lock_file={directory}/nagios.pid
command_file={directory}/rw/nagios.cmd
query_socket={directory}/rw/nagios.qh
nagios_user={user}
nagios_group={group}
cfg_file={directory}/objects.cfg
interval_length=1
status_update_interval=1
enable_notifications=0
use_syslog=0
event_broker_options=0
retain_state_information=0
service_inter_check_delay_method=n
host_inter_check_delay_method=n
check_workers=2
check_for_updates=0
log_external_commands=1
log_passive_checks=1
illegal_macro_output_chars=`~$&|'"<>
# As they stand in Debian's file; the shipped lines at the end have to win.
check_external_commands=0
enable_environment_macros=0
obsess_over_services=0
obsess_over_hosts=0
process_performance_data=0
"""
class NagiosProcess:
    """One Nagios with the configuration of conf/nagios as it is shipped, for one of the ways or both.

    `directory` must be one that the user `nagios` may enter, `socket_path` is where the commands send to, `feed_path`
    the file that is written by the templates.
    """

    def __init__(
        self, directory: Path, objects: str, *, socket_path: Path | None = None, feed_path: Path | None = None,
        main: str = "",
    ) -> None:
        if not PROGRAM.exists():
            raise AssertionError(f"no {PROGRAM}: run `make test-nagios` as root")
        self.directory = directory
        self.pipe_path = directory / "rw" / "nagios.cmd"
        self.status_path = directory / "status.dat"
        self.objects_path = directory / "objects.cache"
        self.log_path = directory / "nagios.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._paused_worker: psutil.Process | None = None
        self._write_files(objects)
        self.set_ways(socket_path, feed_path, main)

    @property
    def pid(self) -> int:
        """The process that runs, or ran last. Raises `AssertionError` before the first start."""
        assert self._process is not None
        return self._process.pid

    def start(self, timeout_s: float = 30.0) -> None:
        """Start, again after `stop` or `kill` too, and wait until a new status file is there and the pipe is read."""
        self.status_path.unlink(missing_ok=True)
        with (self.directory / "output").open("ab") as output:
            self._process = children.spawn([PROGRAM, self.directory / "nagios.cfg"], cwd=self.directory, stdout=output)
        wait_until(self._is_ready, timeout_s, f"Nagios reads {self.pipe_path}")

    def stop(self) -> None:
        """End it in order; the pipe's file stays."""
        assert self._process is not None
        children.end(self._process, grace_s=20.0)

    def kill(self) -> None:
        """End it at this moment (SIGKILL), and its worker too if that is paused; others end by themselves."""
        assert self._process is not None
        if self._paused_worker is not None:
            # The worker first, for the kernel wakes it when its parent dies; and without a parent that begins another.
            self._process.send_signal(signal.SIGSTOP)
            self._end_paused_worker()
        children.end(self._process)

    def pause_worker(self) -> None:
        """Pause the process that reads the pipe."""
        pids = re.findall(r"launched command file worker with pid (\d+)", self.log_text())
        self._paused_worker = psutil.Process(int(pids[-1]))
        self._paused_worker.suspend()
        stopped = psutil.STATUS_STOPPED
        wait_until(lambda: self._paused_worker and self._paused_worker.status() == stopped, 10, "the worker is paused")

    def is_reading(self) -> bool:
        """Answer whether somebody has the pipe open for reading."""
        try:
            os.close(os.open(self.pipe_path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True

    def close(self) -> None:
        """End it in whatever state it is, with its workers. Harmless when called twice."""
        if self._process is not None:
            children.end(self._process, grace_s=5.0)
        self._end_paused_worker()

    def command(self, command: str, *arguments: object) -> None:
        """Write one external command into the pipe, as a script on this machine would."""
        line = f"[{int(time.time())}] {';'.join([command, *map(str, arguments)])}\n"
        pipe = os.open(self.pipe_path, os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(pipe, line.encode())
        finally:
            os.close(pipe)

    def check_now(self, service: str = "", host: str = HOST) -> None:
        """Have a check done at once, active ones switched on or not."""
        if service:
            self.command("SCHEDULE_FORCED_SVC_CHECK", host, service, int(time.time()))
        else:
            self.command("SCHEDULE_FORCED_HOST_CHECK", host, int(time.time()))

    def reload(self) -> None:
        """Have it read its configuration again (SIGHUP), and wait until it has."""
        assert self._process is not None
        done = self.log_text().count("Caught SIGHUP")
        self._process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.log_text().count("Caught SIGHUP") > done, 30, "Nagios has taken the signal")
        self.status_path.unlink(missing_ok=True)
        wait_until(self._is_ready, 30, f"Nagios reads {self.pipe_path} again")

    def service(self, name: str) -> dict[str, str]:
        """Return the block of a service in status.dat, empty while there is none."""
        return self._block("servicestatus", host_name=HOST, service_description=name)

    def host(self) -> dict[str, str]:
        """Return the block of the host in status.dat, empty while there is none."""
        return self._block("hoststatus", host_name=HOST)

    def commands(self) -> list[str]:
        """Return the external commands that it has carried out in all its lives, as its log has them."""
        return re.findall(r"^\[\d+\] EXTERNAL COMMAND: (.*)$", self.log_text(), re.MULTILINE)

    def log_text(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    def set_ways(self, socket_path: Path | None, feed_path: Path | None, main: str = "") -> None:
        """Do what docs/nagios.md tells the operator to do: Nagios 4.4 has no include for its main file.

        One that runs goes on as before until it is reloaded.
        """
        directory = self.directory
        text = _MAIN.format(directory=directory, user=USER, group=GROUP)
        if socket_path is not None:
            sender = directory / "conf" / "vigilo-send"
            (directory / "resource.cfg").write_text(f"$USER30$={sender} --socket {socket_path}\n")
            text += f"cfg_file={directory}/conf/vigilo-commands.cfg\nresource_file={directory}/resource.cfg\n"
            text += (SHIPPED / "vigilo-main.cfg").read_text(encoding="utf-8")
        if feed_path is not None:
            shipped = (SHIPPED / "vigilo-feed.cfg").read_text(encoding="utf-8")
            text += shipped.replace("/var/lib/nagios4/vigilo/feed", str(feed_path))
        (directory / "nagios.cfg").write_text(text + main, encoding="utf-8")
        if os.geteuid() == 0:
            for path in (directory, *directory.rglob("*")):
                shutil.chown(path, USER, GROUP)

    def _block(self, kind: str, **wanted: str) -> dict[str, str]:
        try:
            text = self.status_path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return {}
        for block in re.findall(rf"^{kind} {{\n(.*?)^\t}}$", text, re.MULTILINE | re.DOTALL):
            values = dict(line.strip().partition("=")[::2] for line in block.splitlines())
            if wanted.items() <= values.items():
                return values
        return {}

    def _is_ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            output = (self.directory / "output").read_text(errors="replace")
            raise AssertionError(f"Nagios ended with status {self._process.returncode}\n{output}{self.log_text()}")
        return bool(self.host()) and self.is_reading()

    def _end_paused_worker(self) -> None:
        if self._paused_worker is not None and self._paused_worker.is_running():
            self._paused_worker.kill()
        self._paused_worker = None

    def _write_files(self, objects: str) -> None:
        directory = self.directory
        # A copy: Nagios' user may not be able to enter the checkout.
        shutil.copytree(SHIPPED, directory / "conf")
        for name in ("rw", "results", "plugins"):
            (directory / name).mkdir()
        (directory / "objects.cfg").write_text(common(directory) + objects, encoding="utf-8")
