"""`python -m adco` is the command `adco`."""

from adco.cli.main import main

if __name__ == "__main__":
    main()
