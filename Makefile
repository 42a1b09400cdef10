.PHONY: check quick test bench pins

check:  ## lint, types, import contracts
	uv run ruff format --check src tests benchmarks scripts examples
	uv run ruff check src tests benchmarks scripts examples
	uv run mypy
	uv run lint-imports

quick:  ## fast tests, within two minutes on two cores; no commands, cluster, browser or long trainings
	uv run pytest -n auto -m "(unit or run) and not long"

test:  ## all tests
	uv run pytest -n auto

bench:  ## all benchmarks, with the data in LABRUN_TEST_DATA
	uv run python benchmarks/logistic_regression.py --save
	uv run python benchmarks/start_up.py --save
	uv run python benchmarks/cnn_throughput.py --save
	uv run python benchmarks/loading.py --save
	uv run python benchmarks/threads.py --save
	uv run python benchmarks/sweep_throughput.py --long 1000 --save
	uv run python benchmarks/slurm_packing.py --save
	uv run python benchmarks/transfer.py --save
	uv run python benchmarks/listing.py --save
	uv run python benchmarks/search.py --save
	uv run python benchmarks/remote.py --save
	uv run --group bench python benchmarks/automl.py --save

pins:  ## update the exact versions from uv.lock
	uv run python scripts/pins.py --write
