"""The base class of handlers, by the name that connectors import it by."""

from vigiloconn.supervisor import Handler

__all__ = ["Handler"]
