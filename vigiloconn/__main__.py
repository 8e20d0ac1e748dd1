"""The program's entry. What is imported when matters: `send` must not wait for gevent, and everything else
must find the stdlib already patched."""

from __future__ import annotations

import errno
import sys


def main(argv: list[str] | None = None) -> int:
    """Run the program with `argv` (without its name) and return the exit status."""
    try:
        try:
            return _main(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader has what it wanted: `... | head`.
        from vigiloconn.kit.arguments import leave_closed_pipe

        leave_closed_pipe()
        return 0
    except OSError as exc:
        if exc.errno != errno.ENOSPC:
            raise
        from vigiloconn.kit.arguments import leave_closed_pipe
        from vigiloconn.kit.exits import EXIT_FAILED, fail

        leave_closed_pipe()
        return fail(f"standard output can't be written: {exc.strerror}", EXIT_FAILED)
    except KeyboardInterrupt:
        from vigiloconn.kit.exits import EXIT_FAILED, fail

        return fail("interrupted", EXIT_FAILED)


def _main(argv: list[str] | None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["send"]:
        from vigiloconn.cli import send as sendcli

        return sendcli.main(arguments)
    if arguments[:1] == ["status"]:
        from vigiloconn.cli import status as statuscli

        return statuscli.main(arguments)
    if arguments[:1] == ["bus"]:
        from vigiloconn import configure

        return configure.main(arguments[1:])
    if arguments[:1] == ["journal"]:
        from vigiloconn.cli import journal

        return journal.main(arguments)
    from gevent import get_hub, monkey

    monkey.patch_all()
    # Whichever greenlet an interruption meets: it is told here, not printed there.
    get_hub().NOT_ERROR += (KeyboardInterrupt,)
    from vigiloconn.cli import run as cli

    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
