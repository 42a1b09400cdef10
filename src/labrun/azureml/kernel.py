"""The kernel of `lab azureml kernel`: IPython's kernel, with `azureml` importable from the first cell."""

from __future__ import annotations

from labrun.azureml import entry_points

if __name__ == "__main__":
    entry_points.install()
    from ipykernel.kernelapp import IPKernelApp

    IPKernelApp.launch_instance()
