"""Run the command line as ``python -m offramp.cli``."""

from offramp.cli import main

main()
