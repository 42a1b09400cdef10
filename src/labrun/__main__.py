"""`python -m labrun` is `labrun`."""

from labrun.app import main

if __name__ == "__main__":
    main()
