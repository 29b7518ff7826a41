"""`python -m anomaly_bench` is `bench`."""

from anomaly_bench.commands.main import main

if __name__ == "__main__":  # spawned training processes import this module too
    raise SystemExit(main())
