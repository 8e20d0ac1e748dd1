"""What one would write in place of the connector: lines from a UNIX socket, published as they are, by a library."""
