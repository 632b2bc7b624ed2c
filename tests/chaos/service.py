"""`modelserver`, with the points of a fault laid around it: `python -m tests.chaos.service run`."""

from tests.chaos.points import install

# Here and not below: the training child imports this module, too, under another name. It does so
# before multiprocessing knows that it has a parent.
install(in_child=__name__ == "__mp_main__")

if __name__ == "__main__":
    from cli.main import main

    main()
