"""The Python API: the functions and classes that `labrun` exports, and the handles of runs, sweeps and models."""
