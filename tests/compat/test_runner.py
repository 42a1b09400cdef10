"""Scripts as written for Azure, started by the script task and by hand."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

STANDALONE = Path(__file__).parents[2] / "src" / "labrun" / "compat" / "standalone"


def test_calls_removed_from_libraries_still_work(bench: Any, well: Any) -> None:
    script = bench.write(
        "import sys\n"
        "assert 'numpy' not in sys.modules and 'sklearn' not in sys.modules\n"
        "import numpy as np\n"
        "assert 'sklearn' not in sys.modules\n"
        "assert (np.int, np.object, np.str, np.float) == (int, object, str, float) and np.bool in (bool, np.bool_)\n"
        "assert np.NaN != np.NaN and np.product([2, 3]) == 6\n"
        "assert np.float is float and not hasattr(np, 'no_such_thing')\n"
        "import sklearn.externals.joblib as joblib\n"
        "import joblib as itself\n"
        "assert joblib is itself and itself.__spec__.name == 'joblib'\n"
        "from sklearn.cross_validation import train_test_split\n"
        "import pandas as pd\n"
        "pd.set_option('display.max_colwidth', -1)\n"
        "pd.options.display.max_colwidth = -1\n"
        "assert pd.get_option('display.max_colwidth') is None\n"
        "table = pd.DataFrame({2: [1.0, 2.0], 1: [3.0, 4.0]})\n"
        "assert list(table.sort_index(1)) == [1, 2] and list(table.drop(2, 1)) == [1]\n"
        "assert [name for name, _ in table.iteritems()] == [2, 1]\n"
        "longer = table.append(pd.DataFrame({2: [5.0], 1: 6.0}), True)\n"
        "assert table.append({2: 5.0, 1: 6.0}, ignore_index=True).equals(longer)\n"
        "assert table[1].append(table[1]).tolist() == [3, 4, 3, 4] and table.drop(index=0).index.tolist() == [1]\n"
        "assert list(table.sum(1)) == [4, 6] and list(table.sort_values(1, 0, False)[1]) == [4, 3]\n"
        "assert pd.concat([table, table], 1).shape == (2, 4) and table.as_matrix().shape == (2, 2)\n"
        "gaps = pd.DataFrame({'a': [1.0, None]})\n"
        "assert gaps.fillna(method='ffill').a.tolist() == [1, 1] == gaps.fillna(1).a.tolist()\n"
        "assert gaps.dropna(0, 'any').shape == (1, 1) and table.applymap(lambda x: 2 * x)[1].tolist() == [6, 8]\n"
        "named = table.append(pd.Series({2: 1.0, 1: 2.0}, name='x'))\n"
        "assert named.index.tolist() == [0, 1, 'x'] and named.dtypes.tolist() == table.dtypes.tolist()\n"
        "from sklearn.preprocessing import OneHotEncoder\n"
        "encoder = OneHotEncoder(sparse=False)\n"
        "assert encoder.fit_transform([['a'], ['b']]).tolist() == [[1, 0], [0, 1]]\n"
        "assert encoder.get_params()['sparse_output'] is False and OneHotEncoder().sparse_output\n"
        "from sklearn.metrics import mean_squared_error\n"
        "errors = [mean_squared_error([0, 0], [2, 2], squared=how) for how in (True, False)]\n"
        "assert [*errors, mean_squared_error([0], [3])] == [4, 2, 9]\n"
        "import pkg_resources\n"
        "assert pkg_resources.get_distribution('numpy').version == np.__version__\n"
        "assert ('numpy', np.__version__) in [(p.key, p.version) for p in pkg_resources.working_set]\n"
        "try: pkg_resources.get_distribution('azureml-dataprep')\n"
        "except pkg_resources.DistributionNotFound: pass\n"
        "else: raise SystemExit('no such package')\n"
        "try: table.drop(2, 1, axis=0)\n"
        "except TypeError: pass\n"
        "else: raise SystemExit('two axes')\n"
        "try: from sklearn.externals import nothing\n"
        "except ImportError: print('as ever')\n"
        # Logistic regression as it was called in 2019.
        "import numpy as np\n"
        "from sklearn.datasets import load_digits\n"
        "from sklearn.linear_model import LogisticRegression\n"
        "from sklearn.multiclass import OneVsRestClassifier\n"
        "from sklearn.base import clone\n"
        "x, y = load_digits(return_X_y=True)\n"
        "x, y = x[:500] / 16, y[:500]\n"
        "old = LogisticRegression(C=2.0, solver='liblinear', multi_class='auto', random_state=42).fit(x, y)\n"
        "new = OneVsRestClassifier(LogisticRegression(C=2.0, solver='liblinear', random_state=42)).fit(x, y)\n"
        "assert np.allclose(old.predict_proba(x), new.predict_proba(x)) and old.coef_.shape == (10, 64)\n"
        "assert (old.predict(x) == new.predict(x)).all() and 'multi_class' not in old.get_params()\n"
        "assert clone(old).fit(x, y > 4).coef_.shape == (1, 64)\n"
        "ovr = LogisticRegression(C=2.0, multi_class='ovr', class_weight='balanced').fit(x, y)\n"
        "assert ovr.score(x, y) > 0.9 and np.allclose(ovr.predict_proba(x).sum(axis=1), 1)\n"
        "plain = LogisticRegression(C=2.0, multi_class='multinomial').fit(x, y)\n"
        "assert np.array_equal(plain.coef_, LogisticRegression(C=2.0).fit(x, y).coef_)\n"
    )
    done = well(bench.run(script))
    lines = done.stderr.splitlines()
    fits = [line for line in lines if "LogisticRegression" in line]
    assert len(fits) == 4 and "for several classes was removed in scikit-learn 1.8" in fits[1]
    told = [line.split()[1] for line in lines if line not in fits]
    assert done.stdout == "as ever\n"
    assert sorted(told) == sorted({*told}) and {"np.int", "np.NaN", "sklearn.cross_validation"} <= {*told}
    assert {"DataFrame.sort_index()", "DataFrame.drop()", "DataFrame.append()", "Series.append()"} <= {*told}


def test_worker_processes_can_import_and_log_like_the_script(bench: Any, well: Any) -> None:
    bench.write("def double(x):\n    return 2 * x\n", "src/helper.py")
    script = bench.write(
        "import multiprocessing, subprocess, sys\n"
        "import numpy as np\n"
        "from azureml.core import Run\n"
        "import helper\n"
        "assert np.float is float\n"
        "def work(x):\n"
        "    Run.get_context().log('worked', np.float(x))\n"
        "    return helper.double(x)\n"
        "def old():\n"
        "    import pkg_resources\n"
        "    return pkg_resources.get_distribution('numpy').version\n"
        "if __name__ == '__main__':\n"
        "    for way in ('fork', 'spawn', 'forkserver'):\n"
        "        with multiprocessing.get_context(way).Pool(1) as pool:\n"
        "            assert pool.map(work, [1, 2]) == [2, 4]\n"
        "            assert pool.apply(old) == np.__version__\n"
        "    subprocess.run([sys.executable, '-c', 'from azureml.core import Run'], check=True)\n",
        "src/train.py",
    )
    well(bench.run(script))
    assert [value for _, value in bench.metrics()["worked"]] == [1, 2] * 3


@pytest.mark.parametrize("environment", [{}, {"PYTHONSAFEPATH": "1"}])
def test_a_script_runs_as_with_plain_python(bench: Any, well: Any, environment: dict[str, str]) -> None:
    script = bench.write(
        "import atexit, inspect, os, pickle, sys\n"
        "class Thing: pass\n"
        "assert isinstance(pickle.loads(pickle.dumps(Thing())), Thing)\n"
        "import __main__\n"
        "assert __main__.Thing is Thing and __name__ == '__main__' and __spec__ is None\n"
        "assert __file__ == os.path.abspath(sys.argv[0]) and 'class Thing' in inspect.getsource(Thing)\n"
        "assert sys.path[0] == os.path.dirname(__file__), sys.path\n"
        "assert not any(path.endswith(os.path.join('compat', 'azureml')) for path in sys.path)\n"
        "def last(x: Thing = None): print('last', __main__.Thing is Thing, last.__annotations__)\n"
        "atexit.register(last)\n"
        "print(sys.argv[1:])\n",
        "src/train.py",
    )
    for done in (bench.run(script, "--a", "1", "-m", **environment), bench.by_hand(str(script), "--a", "1", "-m")):
        # The runner's own `from __future__` is not the script's.
        assert well(done).stdout == "['--a', '1', '-m']\nlast True {'x': <class '__main__.Thing'>}\n"


@pytest.mark.parametrize(
    "ends, code", [("sys.exit(7)", 7), ("sys.exit('no data')", 1), ("sys.exit()", 0), ("1 / 0", 1)]
)
def test_exit_codes_are_those_of_the_script(bench: Any, ends: str, code: int) -> None:
    assert bench.run(bench.write(f"import sys\n{ends}\n")).returncode == code


@pytest.mark.parametrize("text", ["def f():\n    return 1 / 0\n\nf()\n", "def f(:\n", "raise KeyboardInterrupt\n"])
def test_a_traceback_shows_only_the_script(bench: Any, text: str) -> None:
    script = bench.write(text)
    plain = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    for done in (bench.run(script), bench.by_hand(str(script))):
        assert done.stderr == plain.stderr and done.returncode == plain.returncode


def test_a_script_started_by_hand_only_prints(bench: Any, well: Any) -> None:
    script = bench.write(
        "from azureml.core import Run\n"
        "from azureml.core.run import _OfflineRun\n"
        "run = Run.get_context()\n"
        "assert isinstance(run, _OfflineRun) and run.id.startswith('OfflineRun') and run.experiment.name == 'offline'\n"
        "run.log('loss', 0.4); run.log('kind', 'svm'); run.log_list('curve', [1, 2]); run.log_row('r', a=1)\n"
        "run.tag('a', 1); run.upload_file('outputs/x', 'x'); run.log_image('i', plot=3); run.complete()\n"
        "assert run.get_metrics('loss') == {'loss': 0.4} and run.get_tags() == {'a': '1'}\n"
        "try: Run.get_context(allow_offline=False)\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    done = well(bench.by_hand("train.py"))
    assert done.stdout.splitlines() == [
        "Attempted to log scalar metric loss: 0.4",
        "Attempted to log scalar metric kind: svm",
        "Attempted to log list metric curve: [1, 2]",
        "Attempted to log row metric r: {'a': 1}",
        "Attempted to tag the run: a=1",
        "Attempted to track file outputs/x at x",
        "Attempted to log image metric i: 3",
        "RunEnvironmentException",
    ]
    assert sorted(path.name for path in bench.folder.iterdir()) == ["logs", "outputs", "train.py"]
    assert script.is_file() and not (bench.run_dir / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    "arguments, code, told",
    [
        ((), 2, "usage:"),
        (("-h",), 0, "usage:"),
        (("none.py",), 2, "none.py does not exist"),
        ((".",), 2, "is a folder"),
    ],
)
def test_the_runner_reports_a_missing_script(bench: Any, arguments: tuple[str, ...], code: int, told: str) -> None:
    done = bench.by_hand(*arguments)
    assert done.returncode == code and told in done.stderr


def test_an_environment_with_labrun_has_no_azureml() -> None:
    code = "import labrun.compat.azureml.runner, importlib.util as u; print(u.find_spec('azureml'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"


def test_a_script_runs_under_an_interpreter_without_labrun(bench: Any, well: Any, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    python = str(tmp_path / "bare" / "bin" / "python")
    script = bench.write(
        "import os, subprocess, sys\n"
        "from azureml.core import Run\n"
        "Run.get_context().log('loss', 0.5)\n"
        "child = 'from azureml.core import Run; Run.get_context().log(\"child\", 1)'\n"
        "subprocess.run([sys.executable, '-c', child], check=True)\n"
        "import labrun\n"
        "labrun.log('own', 0.4, step=10)\n"
        "from labrun.runs import context\n"
        "assert str(context.current().run_dir) == os.environ['LABRUN_RUN_DIR']\n"
        "try: labrun.submit\n"
        "except AttributeError as error: print(error)\n"
        "assert not {'numpy', 'yaml', 'hydra'} & set(sys.modules)\n"
    )
    done = well(bench.run(script, python=python))
    assert bench.metrics() == {"loss": [(0, 0.5)], "child": [(0, 1)], "own": [(10, 0.4)]}
    assert "needs labrun installed" in done.stdout
    # Without the runner, as for scripts of no Azure: the path alone is enough.
    plain = [python, "-c", "import labrun; labrun.log('loss', 1)"]
    told = subprocess.run(plain, env={"PYTHONPATH": str(STANDALONE)}, capture_output=True, text=True, check=True)
    assert told.stdout == "loss: 1\n"


def test_another_sitecustomize_still_runs(bench: Any, well: Any, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("import builtins\nbuiltins.CUSTOM = 'here'\n")
    script = bench.write(
        "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'print(CUSTOM)'], check=True)\n"
    )
    assert well(bench.run(script, PYTHONPATH=str(tmp_path / "site"))).stdout == "here\n"
