"""Connectors that come with the runtime. Each module has `build(settings, supervisor)` and nothing else."""
