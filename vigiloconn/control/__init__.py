"""What can be seen of a running connector, and asked of it: on a local socket, in the log, by systemd."""
