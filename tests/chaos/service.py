"""`modelserver`, with the points of a fault laid around it: `python -m tests.chaos.service run`."""

from tests.chaos.points import install

# Here and not below: the training child imports this module, too, under another name.
install()

if __name__ == "__main__":
    from consumers.cli.main import main

    main()
