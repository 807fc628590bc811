"""The command line `motbench`: one file per command, everything heavy imported inside the command."""
