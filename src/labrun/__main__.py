"""Entry point of `python -m labrun`, the same as `labrun`."""

from labrun.app import main
from labrun.warm.client import ended

if __name__ == "__main__":
    ended(main)
