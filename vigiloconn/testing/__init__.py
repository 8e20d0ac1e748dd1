"""What the tests of a connector need: `run_connector` on a bus in memory, and a fixture for a real broker."""

from vigiloconn.testing.memory import MemoryBus, Received
from vigiloconn.testing.running import Running, run_connector

__all__ = ["MemoryBus", "Received", "Running", "run_connector"]
