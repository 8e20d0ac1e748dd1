"""The promise on trial: faults drawn from a seed, obligations that must be met. `python -m tests.chaos --help`."""
