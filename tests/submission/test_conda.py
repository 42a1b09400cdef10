"""Sources of built environments: conda files translated to PyPI packages, and local interpreters."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from labrun.errors import ConfigError
from labrun.submission import conda, environments, pythons


@pytest.mark.parametrize(
    "text, name, version",
    [
        ("numpy", "numpy", ""),
        ("numpy=1.19", "numpy", "==1.19.*"),
        ("numpy=1.19.*", "numpy", "==1.19.*"),
        ("numpy==1.19.2", "numpy", "==1.19.2"),
        ("numpy=1.19.2=py36_0", "numpy", "==1.19.2"),
        ("numpy >=1.18,<2", "numpy", ">=1.18,<2"),
        ("scikit-learn 0.22", "scikit-learn", "==0.22.*"),
        ("conda-forge::LightGBM", "lightgbm", ""),
        ("x=1.0rc1", "x", "==1.0rc1"),
        ("x=*", "x", ""),
    ],
)
def test_conda_specifications_become_pip_requirements(text: str, name: str, version: str) -> None:
    assert conda.parse_spec(text) == (name, version)


FILE = """\
name: azure
channels: [conda-forge]
dependencies:
  - python=3.6.2
  - pip=20
  - scikit-learn=0.22
  - pytorch::pytorch>=1.4
  - cudatoolkit=10.1
  - r-base
  - pip:
    - azureml-defaults
    - azureml-dataprep[pandas,fuse]==2.0
    - azureml-mlflow
    - -r more.txt
    - six
    - git+https://example.org/x.git
"""


def test_a_conda_file_gives_requirements_and_python(tmp_path: Path) -> None:
    file = tmp_path / "env.yml"
    file.write_text(FILE)
    (tmp_path / "more.txt").write_text("attrs\n")
    wanted = conda.read(file, azureml=True)
    assert wanted.python == "==3.6.2.*" and wanted.left_out == ["cudatoolkit", "r-base"]
    theirs = ["pandas", "mlflow-skinny", f"-r {tmp_path / 'more.txt'}", "six", "git+https://example.org/x.git"]
    assert wanted.lines == ["scikit-learn==0.22.*", "torch>=1.4", *theirs]
    assert set(wanted.names) == {"scikit-learn", "torch", "pandas", "mlflow-skinny", "six"}
    assert "azureml-defaults" in conda.read(file).lines, "only scripts of Azure have azureml from labrun"
    before = environments.digest_of(file, azureml=True)
    (tmp_path / "more.txt").write_text("attrs==20\n")
    assert environments.digest_of(file, azureml=True) != before
    file.write_text("name: x\n")
    with pytest.raises(ConfigError, match="a list `dependencies`"):
        conda.read(file)


def test_azure_packages_are_left_out_of_a_requirements_file(tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text("# ours\nazureml-core==1.0  # theirs\nsix==1.16  # a comment\n")
    assert environments.plan(file, azureml=True).lines == ("six==1.16",)
    assert environments.plan(file).lines is None


def test_a_missing_python_version_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "env.yml"
    file.write_text("dependencies: [python=3.6, mkl, six]\n")
    monkeypatch.setattr(pythons, "_version_of", lambda path: None)
    plan = environments.plan(file)
    assert plan.python == sys.executable and plan.lines == ("six",)
    assert "python==3.6.* is not installed" in plan.notices[0] and "mkl" in plan.notices[1]


def test_interpreters_are_found_by_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"a": (3, 6, 2), "b": (3, 6, 15), "c": (3, 8, 1), sys.executable: sys.version_info[:3]}
    monkeypatch.setattr(pythons, "_places", lambda minor: iter(["none", *there]))
    monkeypatch.setattr(pythons, "_version_of", there.get)
    assert [pythons.find(text) for text in ("3.6.2", "==3.6.2.*", "3.6", "3.6.7", "==3.6")] == ["a", "a", "b", "b", "b"]
    assert pythons.find(">=3.6") == sys.executable and pythons.find(">=3.6,<3.9") == "c"
    assert pythons.find("3.5") is None and pythons.find(">=3.5,<3.6") is None and pythons.find("any") is None
    monkeypatch.undo()
    assert pythons.find(".".join(map(str, sys.version_info[:3]))) is not None
