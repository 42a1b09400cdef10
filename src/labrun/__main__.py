"""Entry point of `python -m labrun`, the same as `labrun`."""

from labrun.warm.client import execute_here, run_and_exit

if __name__ == "__main__":
    run_and_exit(lambda: execute_here("labrun.app"))
