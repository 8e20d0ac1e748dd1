"""The connection to a broker, by the name that connectors import it by."""

from vigiloconn.bus.connection import BusConnection, GoingDown, tls_context

__all__ = ["BusConnection", "GoingDown", "tls_context"]
