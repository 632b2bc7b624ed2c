"""`modelserver` with the points around its methods: `python -m tests.chaos.service run`."""

from tests.chaos.points import install

# Not under `__main__`: the training child imports this module too, as `__mp_main__`. It does so
# before multiprocessing has set its parent process, so the name tells the two apart.
install(in_child=__name__ == "__mp_main__")

if __name__ == "__main__":
    from cli.main import main

    main()
