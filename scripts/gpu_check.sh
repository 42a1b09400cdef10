#!/usr/bin/env bash
# What labrun does on a GPU, in under eight minutes: one run, a sweep of four that share the GPU, mixed precision,
# torch.compile, and the CIFAR-10 CNN's images per second beside a bare loop.
#
#   scripts/gpu_check.sh             on a machine with a GPU; the output goes to benchmarks/results/gpu.md, too
#   scripts/gpu_check.sh --dry-run   the same commands on the processor, made small: shows that they run, measures nothing
#   LABRUN_PYTHON=python3 ...        an interpreter that has labrun's dependencies; default: uv's
set -u
cd "$(dirname "$0")/.." || exit 1
root=$PWD

dry=false
case "${1:-}" in
  "") ;;
  --dry-run) dry=true ;;
  *) echo "usage: scripts/gpu_check.sh [--dry-run]" >&2; exit 2 ;;
esac

if [ -n "${LABRUN_PYTHON:-}" ]; then python=("$LABRUN_PYTHON"); else python=(uv run --no-sync --project "$root" python); fi
export PYTHONPATH="$root/src${PYTHONPATH:+:$PYTHONPATH}"
lacks="gpu_check: ${python[*]} lacks labrun's dependencies: run 'uv sync' first, or set LABRUN_PYTHON"
needed="import sys, importlib.util
sys.exit(not all(importlib.util.find_spec(name) for name in ('torch', 'pytorch_lightning', 'hydra', 'sklearn', 'psutil')))"
"${python[@]}" -c "$needed" 2>/dev/null || { echo "$lacks" >&2; exit 1; }
if [ "$dry" = false ] && ! "${python[@]}" -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
  echo "gpu_check: torch finds no GPU here; scripts/gpu_check.sh --dry-run does without" >&2
  exit 1
fi
"${python[@]}" -c "import torch, pytorch_lightning, hydra, sklearn, psutil" 2>/dev/null || { echo "$lacks" >&2; exit 1; }

work=$(mktemp -d "${TMPDIR:-/tmp}/labrun-gpu.XXXXXX")
trap 'rm -rf "$work"' EXIT
page=$work/page.md
failed=0
SECONDS=0

if [ "$dry" = true ]; then
  place=(compute=local trainer.accelerator=cpu) shared=(compute=local compute.max_parallel=4 trainer.accelerator=cpu) count=600 device=cpu
  half=bf16-mixed name=CPU epochs=1 pairs=1 size=(dataset.max_samples=400)
else
  place=(compute=gpu trainer.accelerator=gpu) shared=(compute=gpu compute.runs_per_gpu=4 trainer.accelerator=gpu) count=50000 device=cuda
  half=16-mixed name=CUDA epochs=3 pairs=2 size=()
fi

# A network that is compiled, and the same without.
mkdir -p "$work/conf/model"
cat > "$work/check_nets.py" <<'PYTHON'
import torch

from labrun.models.cifar10_cnn import Cifar10CNN


class Compiled(torch.nn.Module):
    def __init__(self, input_shape, num_classes, compiles=True):
        super().__init__()
        self.net = Cifar10CNN(tuple(input_shape), num_classes)
        if compiles:
            self.net.compile()

    def forward(self, x):
        return self.net(x)
PYTHON
printf '_target_: check_nets.Compiled\ncompiles: true\n' > "$work/conf/model/compiled.yaml"
"${python[@]}" - "$work/images.npz" "$count" <<'PYTHON'
import sys

import numpy as np

drawn = np.random.default_rng(0)
count = int(sys.argv[2]) // 5
y = drawn.integers(0, 10, count)
x = np.clip(drawn.normal(0, 40, (count, 32, 32, 3)) + 25 * y[:, None, None, None], 0, 255).astype(np.uint8)
np.savez(sys.argv[1], X=x, y=y)
PYTHON

# shellcheck disable=SC2317  # called by check, as the functions below
labrun() { (cd "$work" && LABRUN_WARM=0 "${python[@]}" -m labrun "$@" tracking=none report=none); }

# Whether so many runs were trained where they were to be.
trained() { [ "$(find "$work" -name driver.log -newer "$work/begun" -exec grep -l "on $name" {} + | wc -l)" = "$1" ]; }

# check TITLE RUNS COMMAND...: a line of the table; what was printed is kept for the end where it failed.
check() {
  local title=$1 runs=$2 begun=$SECONDS said
  shift 2
  touch "$work/begun"
  if [ "$SECONDS" -gt 420 ]; then
    printf '| %s | left out: seven minutes are over | |\n' "$title" >> "$page"
    failed=1
    return
  fi
  if "$@" > "$work/said" 2>&1 && trained "$runs"; then
    said=$(sed -n 's/^  accuracy *//p' "$work/said" | tail -1)
    printf '| %s | %s | %s s |\n' "$title" "${said:+accuracy }${said:-done}" "$((SECONDS - begun))" >> "$page"
  else
    printf '| %s | **failed** | %s s |\n' "$title" "$((SECONDS - begun))" >> "$page"
    { echo; echo "$title failed:"; echo; tail -25 "$work/said" | sed 's/^/    /'; } >> "$work/errors"
    failed=1
  fi
  tail -1 "$page"
}

# shellcheck disable=SC2317
one_run() { labrun model=mnist_dnn "${place[@]}" trainer.max_epochs=5; }
# shellcheck disable=SC2317
sweep() { labrun -m model=mnist_dnn "${shared[@]}" seed=1,2,3,4 trainer.max_epochs=5; }
# shellcheck disable=SC2317
cnn() {
  labrun dataset=npz dataset.path="$work/images.npz" dataset.scale=255 trainer.max_epochs=2 trainer.batch_size=256 \
    "${place[@]}" "${size[@]}" "$@"
}

{
  echo "# labrun on a GPU"
  echo
  if [ "$dry" = true ]; then
    echo "**A dry run on the processor: it shows that the commands run. Nothing here says anything about a GPU.**"
  else
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2> /dev/null ||
      "${python[@]}" -c "import torch; print(torch.cuda.get_device_name(0))"
  fi
  echo
  "${python[@]}" -c "import platform, pytorch_lightning as pl, torch; print(f'Date: $(date +%F); Python {platform.python_version()}, torch {torch.__version__}, pytorch-lightning {pl.__version__}')"
  echo
  echo "Repeat: \`scripts/gpu_check.sh$([ "$dry" = true ] && echo " --dry-run")\`"
  echo
  echo "| check | outcome | wall time |"
  echo "| --- | --- | ---: |"
} > "$page"
cat "$page"

check "one run (digits, \`mnist_dnn\`)" 1 one_run
check "a sweep of four runs that share the device" 4 sweep
check "a run in 32 bits (CNN, random images)" 1 cnn model=cifar10_cnn
check "mixed precision: \`trainer.precision=$half\`" 1 cnn model=cifar10_cnn trainer.precision="$half"
check "\`torch.compile\`" 1 cnn model=compiled
begun=$SECONDS
if (cd benchmarks && timeout 200 "${python[@]}" gpu_loop.py --device "$device" --count "$count" --epochs "$epochs" \
  --pairs "$pairs") > "$work/loop" 2> "$work/said"; then
  { echo; echo "CIFAR-10 CNN on random images in memory, SGD, $((SECONDS - begun)) s:"; echo; cat "$work/loop"; } >> "$page"
else
  { echo; echo "The comparison with a bare loop **failed**:"; echo; tail -25 "$work/said" | sed 's/^/    /'; } >> "$page"
  failed=1
fi
[ -f "$work/errors" ] && cat "$work/errors" >> "$page"
{ echo; echo "In all: $SECONDS s."; } >> "$page"
sed -n '/^In all\|^CIFAR\|^The comparison\|^| [0-9]\|failed:\|^    /p' "$page"
if [ "$dry" = false ]; then
  cp "$page" benchmarks/results/gpu.md
  echo "Written to benchmarks/results/gpu.md"
fi
exit "$failed"
