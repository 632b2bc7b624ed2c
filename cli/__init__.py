"""The command line: `modelserver`. Each module is a noun; `main` holds the exit codes."""
