"""The supervised parts of a connector. `base.Handler` is what they have in common."""
