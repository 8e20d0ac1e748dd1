"""A private RabbitMQ node: ports, data, cookie and epmd of its own. Knows the broker's programs, not the tests.

Nothing of the machine's own RabbitMQ is read, changed or talked to: the programs of the Debian package are
run from where they lie, with every path and port given by us.
"""

from __future__ import annotations

import atexit
import base64
import itertools
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support import children
from tests.support.wait import wait_until

if TYPE_CHECKING:
    import trustme

PREFIX = Path("/usr/lib/rabbitmq/lib")
HOST = "127.0.0.1"
#: Below Linux' range for outgoing connections (32768 and up), so that nobody's outgoing connection sits on a
#: node's port while the node is down, and a connect to that port can't meet itself.
_PORTS = range(20000, 32000)
_AMQP_HEADER = b"AMQP\x00\x00\x09\x01"
_METHOD_FRAME = b"\x01"
_questions = itertools.count()
_QUEUE_FIGURES = ("type", "durable", "state", "messages_ready", "messages_unacknowledged", "consumers")
#: Debian's default wants more free disk than a small machine has, and a node without it takes no message.
_CONFIG = """\
log.console = false
log.file.level = info
disk_free_limit.absolute = 50MB
"""


class RabbitError(RuntimeError):
    """Raised when the node or one of its programs does not do what it was asked."""


def find_programs(prefix: Path = PREFIX) -> Path:
    """Return the directory of RabbitMQ's own programs, those that do not change the user.

    Raises `RabbitError` that says how to install them.
    """
    found = sorted(prefix.glob("rabbitmq_server-*/sbin/rabbitmq-server"))
    if not found:
        script = Path(__file__).with_name("install-rabbitmq.sh")
        raise RabbitError(f"no RabbitMQ in {prefix}: run `make test` or `sh {script}` as root")
    return found[-1].parent


def free_ports(count: int) -> list[int]:
    """Return TCP ports of the loopback address on which nobody listens now."""
    ports: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise RabbitError(f"fewer than {count} free ports between {_PORTS.start} and {_PORTS.stop - 1}")


class RabbitNode:
    """One broker. `start` and `close` it, or use it as a context manager.

    `data_dir` holds all it writes and is kept when it is given; else a temporary one is made and removed.
    `tls` opens a second listener, `tls_port`, which asks for a client certificate of that authority and
    offers EXTERNAL with the common name as user. `extra_config` are lines of `rabbitmq.conf`. A node with a `peer`,
    which must run, becomes one of its cluster at its first start, and must be closed before it.
    """

    host = HOST

    def __init__(
        self,
        data_dir: Path | None = None,
        *,
        tls: trustme.CA | None = None,
        extra_config: Iterable[str] = (),
        plugins: Iterable[str] = (),
        peer: RabbitNode | None = None,
        start_timeout_s: float = 60.0,
    ) -> None:
        self._programs = find_programs()
        self._temporary = data_dir is None
        self.data_dir = data_dir or Path(tempfile.mkdtemp(prefix="vigiloconn-rabbit-"))
        self.port, self.tls_port, self._dist_port, self._epmd_port = free_ports(4)
        self.user, self.password = "guest", "guest"
        self._tls = tls
        self._config = [*_CONFIG.splitlines(), *extra_config]
        self._plugins = list(plugins)
        self._start_timeout_s = start_timeout_s
        self._node: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        self._name = "private@localhost"
        self._cookie = secrets.token_hex(16)
        self._peer = peer
        self._has_joined = peer is None
        if peer is not None:
            self._name = f"private{self.port}@localhost"
            self._cookie, self._epmd_port = peer._cookie, peer._epmd_port
        self._closed = False
        self._write_files()
        atexit.register(self.close)

    def __enter__(self) -> RabbitNode:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        """`host:port` as the settings want it."""
        return f"{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """The pid of the running node. Raises `RabbitError` when it does not run."""
        if self._node is None or self._node.poll() is not None:
            raise RabbitError(f"the node on port {self.port} is not running")
        return self._node.pid

    @property
    def is_running(self) -> bool:
        return self._node is not None and self._node.poll() is None

    # Lives

    def start(self) -> None:
        """Start the node and wait until it answers an AMQP handshake. Data of an earlier life is found again.

        Raises `RabbitError` with the end of the node's log when it does not come up.
        """
        if self.is_running:
            raise RabbitError(f"the node on port {self.port} runs already")
        self._start_epmd()
        # ALLOW_INPUT makes the start script become the node instead of waiting for it: one pid to signal.
        env = {**self._env(), "RABBITMQ_ALLOW_INPUT": "1"}
        with open(self.data_dir / "console.log", "ab") as console:
            self._node = children.spawn(
                [self._programs / "rabbitmq-server", "-noinput"], env=env, cwd=self.data_dir, stdout=console
            )
        deadline = time.monotonic() + self._start_timeout_s
        while not (_answers_amqp(self.port) and (self._tls is None or _accepts(self.tls_port))):
            if self._node.poll() is not None:
                raise RabbitError(f"the node ended with status {self._node.returncode}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise RabbitError(f"no AMQP on {self.address} after {self._start_timeout_s:g} s:\n{self.log_tail()}")
            time.sleep(0.05)
        if not self._has_joined:
            self._join()

    def _join(self) -> None:
        assert self._peer is not None
        for command in (("stop_app",), ("join_cluster", self._peer._name), ("start_app",)):
            self.ctl(*command, timeout_s=self._start_timeout_s)
        self._has_joined = True

    def stop(self, timeout_s: float = 30.0) -> None:
        """Stop the node in order; its clients are told. Harmless after another `stop` or a `kill`.

        Raises `RabbitError` when it had ended by itself, or had to be killed after `timeout_s`.
        """
        if self._node is None:
            return
        status = children.end(self._node, timeout_s)
        self._node = None
        if status != 0:
            raise RabbitError(f"no orderly stop, status {status}:\n{self.log_tail()}")

    def kill(self) -> None:
        """End the node with SIGKILL, as a crash would, once what was declared is on its disk. A paused one hangs here.

        The broker answers a declare when Mnesia's log holds the transaction, but maybe not yet the decision to
        commit it, which is written by another process, up to two seconds later. A crash in between undoes the
        declare, and the queue is gone with every message that was confirmed for it.
        """
        self._expect_ok("mnesia_recover:sync(), mnesia:sync_log()")
        os.kill(self.pid, signal.SIGKILL)
        assert self._node is not None
        children.end(self._node)
        self._node = None

    def restart(self) -> None:
        """Stop in order if it runs, and start on the same port with the same data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Stop its clock (SIGSTOP): the kernel goes on accepting, nothing answers from when this returns."""
        os.kill(self.pid, signal.SIGSTOP)
        # The signal is sent when kill() returns, but its threads stop one by one, and may answer until then.
        wait_until(self._stands_still, 10, "all threads of the node stand still")

    def _stands_still(self) -> bool:
        stats = Path(f"/proc/{self.pid}/task").glob("*/stat")
        try:
            return all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in stats)
        except FileNotFoundError:
            return False  # one has ended meanwhile

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End node and epmd at once and remove a temporary data directory. Harmless when called twice."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        for process in (self._node, self._epmd):
            if process is not None:
                children.end(process)
        if self._temporary:
            shutil.rmtree(self.data_dir, ignore_errors=True)

    def log_tail(self, lines: int = 100) -> str:
        """Return the last lines of what the node wrote to its console and to its log."""
        parts: list[str] = []
        for path in (self.data_dir / "console.log", *sorted((self.data_dir / "log").glob("*.log"))):
            if path.exists():
                tail = path.read_text(errors="replace").splitlines()[-lines:]
                parts.append("\n".join([f"--- {path.name}", *tail]))
        return "\n".join(parts)

    # Commands

    def ctl(self, *args: str, timeout_s: float = 30.0) -> str:
        """Run `rabbitmqctl` (a second and more) and return what it prints. Raises `RabbitError` when it fails."""
        return self._run([str(self._programs / "rabbitmqctl"), "-q", *args], None, timeout_s)

    def eval(self, expression: str, timeout_s: float = 30.0) -> str:
        """Evaluate an Erlang expression in the node, much faster than `rabbitmqctl eval`.

        Raises `RabbitError` when the node can't be asked. What the expression returns is for the caller to judge.
        """
        erl_call = shutil.which("erl_call")
        if erl_call is None:
            return self.ctl("eval", f"{expression}.", timeout_s=timeout_s)
        # By default all have one name, and the node refuses a second one of that name until it has missed the first.
        argv = [erl_call, "-h", f"tests-{os.getpid()}-{next(_questions)}", "-sname", self._name, "-c", self._cookie]
        argv += ["-timeout", str(int(timeout_s)), "-e"]
        answer = self._run(argv, f"{expression}.\n", timeout_s)
        if not answer.startswith("{ok,"):
            raise RabbitError(f"{expression}: {answer}")
        return answer.removeprefix("{ok,").strip().removesuffix("}").strip()

    def add_vhost(self, name: str) -> None:
        """Make a virtual host in which the node's own user may do everything."""
        self._expect_ok(f"rabbit_vhost:add({_binary(name)}, {_binary('tests')})")
        self.set_permissions(self.user, vhost=name)

    def delete_vhost(self, name: str) -> None:
        """Remove a virtual host with all that is in it; its connections are closed."""
        self._expect_ok(f"rabbit_vhost:delete({_binary(name)}, {_binary('tests')})")

    def add_user(self, user: str, password: str, vhost: str = "/") -> None:
        """Make a user that may do everything in one virtual host."""
        account = ", ".join(map(_binary, (user, password, "tests")))
        self._expect_ok(f"rabbit_auth_backend_internal:add_user({account})")
        self.set_permissions(user, vhost=vhost)

    def delete_user(self, user: str) -> None:
        self._expect_ok(f"rabbit_auth_backend_internal:delete_user({_binary(user)}, {_binary('tests')})")

    def set_permissions(
        self, user: str, configure: str = ".*", write: str = ".*", read: str = ".*", *, vhost: str = "/"
    ) -> None:
        """Set the patterns of what `user` may configure, write and read. A channel that has used a right keeps it:
        open a new one, or close the connection, to see it withdrawn."""
        patterns = ", ".join(map(_binary, (user, vhost, configure, write, read, "tests")))
        self._expect_ok(f"rabbit_auth_backend_internal:set_permissions({patterns})")

    def silence_queue(self, queue: str, vhost: str = "/") -> None:
        """Let the process of a queue stand still: it takes nothing and confirms nothing, as without its majority."""
        self._expect_ok(f"sys:suspend({_process(queue, vhost)})")

    def wake_queue(self, queue: str, vhost: str = "/") -> None:
        """Let a queue go on that `silence_queue` stopped."""
        self._expect_ok(f"sys:resume({_process(queue, vhost)})")

    def queues(self, vhost: str = "/") -> list[dict[str, Any]]:
        """Return name, type, durable, arguments, state of each queue, and its messages_ready, messages_unacknowledged
        and consumers as they are now."""
        found = f"rabbit_amqqueue:info_all({_binary(vhost)}, [name, arguments, {', '.join(_QUEUE_FIGURES)}])"
        return self._ask(
            "[maps:from_list([{name, Name}, {arguments, rabbit_misc:amqp_table(Table)} | Rest])"
            f" || [{{name, {{resource, _, _, Name}}}}, {{arguments, Table}} | Rest] <- {found}]"
        )

    def bindings(self, vhost: str = "/") -> set[tuple[str, str, str]]:
        """Return (exchange, queue, key) of all bindings but those to the default exchange."""
        columns = "[source_name, destination_name, routing_key]"
        rows = self._ask(f"[[V || {{_, V}} <- Row] || Row <- rabbit_binding:info_all({_binary(vhost)}, {columns})]")
        return {(exchange, queue, key) for exchange, queue, key in rows if exchange}

    def client_properties(self, vhost: str = "/") -> list[dict[str, Any]]:
        """Return what each client of a virtual host has said of itself."""
        found = "rabbit_networking:connection_info_all([vhost, client_properties])"
        row = f"[{{vhost, {_binary(vhost)}}}, {{client_properties, Table}}]"
        return self._ask(f"[rabbit_misc:amqp_table(Table) || {row} <- {found}]")

    def limit_channels(self, count: int | None, user: str | None = None) -> None:
        """Set how many channels its own user may have open on all connections together; None: as many as it likes."""
        user, limit, tests = map(_binary, (user or self.user, "max-channels", "tests"))
        if count is None:
            self._expect_ok(f"rabbit_auth_backend_internal:clear_user_limits({user}, {limit}, {tests})")
        else:
            limits = f"#{{{limit} => {count}}}"
            self._expect_ok(f"rabbit_auth_backend_internal:set_user_limits({user}, {limits}, {tests})")

    def memory_alarm(self, on: bool) -> None:
        """Raise or end the memory alarm: publishers are blocked at their next publish, consumers go on."""
        self._expect_ok(f"vm_memory_monitor:set_vm_memory_high_watermark({'0.00001' if on else '0.4'})")

    def close_all_connections(self, reason: str = "closed by a test") -> None:
        """Close every client's connection with 320 CONNECTION_FORCED."""
        self._expect_ok(f"rabbit_networking:close_connections(rabbit_networking:connections(), {_binary(reason)})")

    def suspend_listeners(self) -> None:
        """Refuse new connections; open ones stay."""
        self._expect_ok("rabbit_maintenance:suspend_all_client_listeners()")

    def resume_listeners(self) -> None:
        self._expect_ok("rabbit_maintenance:resume_all_client_listeners()")

    def reset(self) -> None:
        """Cure every fault that the methods above can cause and empty the broker, as if it were new."""
        if not self.is_running:
            self._node = None
            self.start()
        self.resume()
        self.eval("rabbit_maintenance:resume_all_client_listeners()")
        self.eval("vm_memory_monitor:set_vm_memory_high_watermark(0.4)")
        self.limit_channels(None)
        for user in self._ask("[proplists:get_value(user, U) || U <- rabbit_auth_backend_internal:list_users()]"):
            if user != self.user:
                self.delete_user(user)
        self.eval('[rabbit_vhost:delete(V, <<"tests">>) || V <- rabbit_vhost:list_names()]')
        self.add_vhost("/")

    # How it is done

    def _expect_ok(self, expression: str) -> None:
        answer = self.eval(expression)
        if answer != "ok":
            raise RabbitError(f"{expression}: expected ok, got {answer}")

    def _ask(self, expression: str) -> Any:
        """Evaluate an expression of lists, maps, numbers and binaries, and return it by way of JSON."""
        # As base64: what can't be said in ASCII would come as a list of numbers.
        shown = self.eval(f"base64:encode_to_string(rabbit_json:encode({expression}))")
        return json.loads(base64.b64decode(shown.strip('"')))

    def _run(self, argv: list[str], text: str | None, timeout_s: float) -> str:
        # One of both: gevent's own `run` takes no `stdin=None` beside `input`.
        source: dict[str, Any] = {"stdin": subprocess.DEVNULL} if text is None else {"input": text}
        try:
            done = subprocess.run(
                argv, capture_output=True, text=True, env=self._env(), cwd=self.data_dir, timeout=timeout_s,
                check=False, **source,
            )
        except subprocess.TimeoutExpired as exc:
            raise RabbitError(f"{' '.join(argv)}: no answer within {timeout_s:g} s") from exc
        if done.returncode != 0:
            raise RabbitError(f"{' '.join(argv)}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def _env(self) -> dict[str, str]:
        """The whole environment of the node's programs: nothing of ours, so no setting of the machine leaks in."""
        data = self.data_dir
        return {
            "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            "LANG": "C.UTF-8",
            "HOME": str(data),
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_NODENAME": self._name,
            "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(data / "mnesia"),
            "RABBITMQ_LOG_BASE": str(data / "log"),
            "RABBITMQ_PID_FILE": str(data / "node.pid"),
            "RABBITMQ_CONF_ENV_FILE": str(data / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(data / "rabbitmq"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(data / "advanced"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(data / "enabled_plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }

    def _write_files(self) -> None:
        data = self.data_dir
        data.mkdir(parents=True, exist_ok=True)
        cookie = data / ".erlang.cookie"
        cookie.unlink(missing_ok=True)
        cookie.touch(mode=0o400)
        os.chmod(cookie, 0o600)
        cookie.write_text(self._cookie)
        os.chmod(cookie, 0o400)
        (data / "rabbitmq-env.conf").touch()
        if self._tls is not None:
            self._config += self._tls_config(self._tls)
            self._plugins.append("rabbitmq_auth_mechanism_ssl")
        (data / "rabbitmq.conf").write_text("\n".join(self._config) + "\n")
        (data / "enabled_plugins").write_text(f"[{','.join(self._plugins)}].\n")

    def _tls_config(self, authority: trustme.CA) -> list[str]:
        directory = self.data_dir / "tls"
        directory.mkdir(exist_ok=True)
        ca, cert, key = (directory / name for name in ("ca.pem", "cert.pem", "key.pem"))
        leaf = authority.issue_cert("localhost", HOST)
        authority.cert_pem.write_to_path(ca)
        key.touch(mode=0o600)
        leaf.private_key_pem.write_to_path(key)
        cert.write_bytes(b"".join(part.bytes() for part in leaf.cert_chain_pems))
        return [
            f"listeners.ssl.1 = {HOST}:{self.tls_port}",
            f"ssl_options.cacertfile = {ca}",
            f"ssl_options.certfile = {cert}",
            f"ssl_options.keyfile = {key}",
            "ssl_options.verify = verify_peer",
            "ssl_options.fail_if_no_peer_cert = true",
            "auth_mechanisms.1 = PLAIN",
            "auth_mechanisms.2 = AMQPLAIN",
            "auth_mechanisms.3 = EXTERNAL",
            "ssl_cert_login_from = common_name",
        ]

    def _start_epmd(self) -> None:
        """Start Erlang's port mapper in the foreground: the node would start one that outlives it."""
        if self._peer is not None or (self._epmd is not None and self._epmd.poll() is None):
            return
        epmd = shutil.which("epmd")
        if epmd is None:
            raise RabbitError("epmd is missing: it comes with Debian's erlang-base")
        argv = [epmd, "-address", HOST, "-port", str(self._epmd_port)]
        self._epmd = children.spawn(argv, env=self._env(), cwd=self.data_dir)
        wait_until(lambda: _accepts(self._epmd_port), 10, f"epmd listens on port {self._epmd_port}", 0.01)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def _answers_amqp(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=2) as link:
            link.sendall(_AMQP_HEADER)
            return link.recv(1) == _METHOD_FRAME
    except OSError:
        return False


def _process(queue: str, vhost: str) -> str:
    """Return an expression for the process of a queue, which a quorum queue names."""
    name = f"rabbit_misc:r({_binary(vhost)}, queue, {_binary(queue)})"
    lookup = f"amqqueue:get_pid(element(2, rabbit_amqqueue:lookup({name})))"
    return f"case {lookup} of {{Name, _}} -> whereis(Name); Pid -> Pid end"


def _binary(text: str) -> str:
    """Return an Erlang binary with this text in UTF-8, whatever characters it holds."""
    return "<<" + ",".join(map(str, text.encode())) + ">>"
