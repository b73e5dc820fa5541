"""The command line: `main` is the entry point; each command group has a file, loaded when it is called."""

from .app import main

__all__ = ["main"]
