#!/usr/bin/env bash
# The tests as other processors would run them: without AVX in PyTorch, in oneDNN or in the kernels, with another order
# of sums in MKL, with one thread and with three. Any arguments go to pytest, such as names of test files.
#
#     make test-machines                                # everything but the slow tests, seven times
#     scripts/check_machines.sh tests/test_networks.py -k auto_classes
set -uo pipefail
cd "$(dirname "$0")/.."
pytest=${PYTEST:-.venv/bin/pytest}
all=(
  "ATEN_CPU_CAPABILITY=default"
  "ATEN_CPU_CAPABILITY=avx2"
  "ONEDNN_MAX_CPU_ISA=SSE41"
  "MKL_CBWR=COMPATIBLE"
  "OMP_NUM_THREADS=1"
  "OMP_NUM_THREADS=3"
  "HYPERREP_CXXFLAGS=-march=x86-64"
)
read -ra machines <<< "${MACHINES:-${all[*]}}" # MACHINES="OMP_NUM_THREADS=3 ..." takes only these
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
failed=()
for machine in "${machines[@]}"; do
  echo "== $machine"
  env "$machine" "$pytest" -m "not slow" -n 2 --dist loadfile "$@" || failed+=("$machine")
done
if ((${#failed[@]})); then
  printf 'failed with %s\n' "${failed[@]}"
  exit 1
fi
echo "passed with ${machines[*]}"
