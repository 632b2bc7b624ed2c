"""`docs/reference/`: pages made from the catalogues of topics, settings, commands, metrics, errors.

Run `python -m tools.docs_reference` to write them, with `--check` to compare them. A page depends
on the catalogues alone: not on the machine, the terminal, the environment or the date.
"""
