"""`python -m secateur`: the command line, where the `secateur` script is not on the path."""

from secateur.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
