"""Entry point of `python -m labrun`, the same as `labrun`."""

from labrun.warm.client import ended, execute_here

if __name__ == "__main__":
    ended(lambda: execute_here("labrun.app"))
