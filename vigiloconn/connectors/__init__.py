"""Connectors that come with the runtime, a `build(settings, supervisor)` each, and `parts` for custom ones."""
