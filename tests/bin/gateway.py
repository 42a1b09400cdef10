"""What execnet, which connects xdist with its workers, has a Python execute."""

import sys

if __name__ == "__main__":  # a process of multiprocessing's executes this file, too
    exec(eval(sys.stdin.readline()))  # noqa: S102, S307 - its own protocol
