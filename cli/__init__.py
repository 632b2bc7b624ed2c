"""The command line: `modelserver`. Each module is a noun; `main` puts them together."""
