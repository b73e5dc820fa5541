"""Run the command line as `python -m modelrack.cli`."""

from .app import main

main()
