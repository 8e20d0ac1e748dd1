"""A connector runtime between monitoring and an AMQP bus.

Importing the package imports nothing heavy: `vigilo-connector send` must start without gevent.
"""

__version__ = "0.2.0"
