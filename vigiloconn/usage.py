"""The command line, by the name that connectors import it by."""

from vigiloconn.cli.usage import USAGE, UsageError, parse, parse_instance
from vigiloconn.kit.exits import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, fail

__all__ = ["EXIT_DONE", "EXIT_FAILED", "EXIT_USAGE", "USAGE", "UsageError", "fail", "parse", "parse_instance"]
