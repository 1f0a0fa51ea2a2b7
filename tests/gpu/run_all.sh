#!/usr/bin/env bash
# Everything about the kernels that needs a GPU, in one go: their tests, compute-sanitizer where it is installed, and the
# benchmark. Needs nvcc, a Python with torch, numpy and pytest (PYTHON, by default python3), and some minutes for each.
#
#   tests/gpu/run_all.sh [FOLDER [PART ...]]
#
# Logs and kernel-speed-*.json go to FOLDER, by default build/gpu; parts are tests, sanitizer, float16 and bfloat16 (the
# benchmark in that type), by default all. Exit status: 0 where every part that could run passed.
set -uo pipefail
cd "$(dirname "$0")/../.."
mkdir -p "${1:-build/gpu}" build/import
out=$(cd "${1:-build/gpu}" && pwd)
parts=" ${*:2} "
python=${PYTHON:-python3}
ln -sfn ../.. build/import/memvp_export # the package lies in the top folder
export PYTHONPATH=$PWD/build/import${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
failed=0
wanted() { [[ $parts == "  " || $parts == *" $1 "* ]]; }

sm=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
[[ $sm =~ ^[0-9]+$ ]] || {
  echo "nvidia-smi names no GPU: $sm"
  exit 1
}
export MEMVP_PLUGIN=$out/libmemvp_kernels-sm_$sm.so
if [[ ! -s $MEMVP_PLUGIN || -n $(find plugins/kernels -newer "$MEMVP_PLUGIN" -name "*.[ch]*") ]]; then
  nvcc -O3 -std=c++17 -lineinfo -shared -Xcompiler -fPIC,-Wall,-Wextra -Xptxas -v --threads 0 \
    -gencode "arch=compute_$sm,code=sm_$sm" plugins/kernels/*.cu -o "$MEMVP_PLUGIN.partial" >"$out/nvcc.log" 2>&1 || {
    cat "$out/nvcc.log"
    exit 1
  }
  mv "$MEMVP_PLUGIN.partial" "$MEMVP_PLUGIN"
fi

if wanted tests; then
  # Quieter, it would not say how many passed.
  "$python" -m pytest tests/gpu/test_kernels.py 2>&1 | tee "$out/tests.log" || failed=1
fi

if wanted sanitizer && ! command -v compute-sanitizer >/dev/null; then
  echo "compute-sanitizer is not installed: left out"
elif wanted sanitizer; then
  for tool in memcheck racecheck initcheck synccheck; do
    timeout -k 5 90 compute-sanitizer --tool "$tool" --error-exitcode 9 --kernel-name kns=memvp \
      "$python" -m pytest -q tests/gpu/test_kernels.py -k "odd or every_activation" >"$out/$tool.log" 2>&1
    status=$?
    tail -n 3 "$out/$tool.log"
    if ((status == 0)); then
      echo "$tool: nothing found"
    elif ((status == 124 || status == 137)); then
      echo "$tool: not finished in 90 s"
    elif grep -qi "device not supported" "$out/$tool.log"; then
      echo "$tool: not supported on this machine"
    else
      echo "$tool: failed, see $out/$tool.log" && failed=1
    fi
  done
fi

for dtype in float16 bfloat16; do
  if wanted $dtype; then
    speed=$out/kernel-speed-$dtype
    "$python" benchmarks/kernel_speed.py --library "$MEMVP_PLUGIN" --dtype $dtype --output "$speed.json" 2>&1 |
      tee "$speed.log" || failed=1
  fi
done
exit $failed
