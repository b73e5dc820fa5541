"""An engine without a model: it repeats what it is told, and fails on request."""
