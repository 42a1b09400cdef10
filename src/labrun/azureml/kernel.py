"""The kernel of `lab azureml kernel`: IPython's kernel, with `azureml` importable from the first cell."""

from __future__ import annotations

from labrun.azureml import ways

if __name__ == "__main__":
    ways.install()
    from ipykernel.kernelapp import IPKernelApp

    IPKernelApp.launch_instance()
