"""Measurements on the real broker, each beside a baseline of the same run. `python -m bench --help`."""
