"""Run benchmarks/bench_loading.py, which was here before."""

import runpy
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def main() -> None:
    sys.path.insert(0, str(BENCHMARKS))  # for the folders beside the benchmark
    runpy.run_path(str(BENCHMARKS / "bench_loading.py"), run_name="__main__")


if __name__ == "__main__":
    print("scripts/bench_loading.py has moved to benchmarks/bench_loading.py", file=sys.stderr)
    main()
