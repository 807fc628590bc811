"""`python -m motbench`."""

from motbench.cli import main

main()
