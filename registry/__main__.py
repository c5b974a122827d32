"""`python -m registry` is the command `likeness`."""

from registry.cli import main

if __name__ == "__main__":
    main()
