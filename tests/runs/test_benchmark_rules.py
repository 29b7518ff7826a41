"""How the authors of each data set measure it: every file is read, and says what it must."""

from __future__ import annotations

import pytest

from anomaly_bench.errors import UserError
from anomaly_bench.metrics.evaluate import FPR_LIMITS
from anomaly_bench.metrics.spro import LIMITS
from anomaly_bench.runs.benchmarks import benchmark, benchmarks, servers


def test_every_rule_is_one_line_without_what_a_page_would_escape() -> None:
    names = benchmarks()
    assert len(names) >= 3
    for name in names:
        line = str(benchmark(name))
        assert line.startswith(f"{benchmark(name).title} as its authors measure it: ")
        assert not {*"\n<>&'\"%"} & {*line}
    assert servers() == ["mvtec_ad2"]


@pytest.mark.parametrize(("name", "limit"), [("mvtec", 0.3), ("mvtec_ad2", 0.05), ("mvtec_loco", 0.05)])
def test_the_limit_that_a_rule_names_is_measured(name: str, limit: float) -> None:
    assert f"up to a false-positive rate of {limit:g}" in benchmark(name).metrics
    assert limit in (LIMITS if name == "mvtec_loco" else FPR_LIMITS)


def test_a_data_set_without_a_rule() -> None:
    with pytest.raises(UserError, match="did you mean 'mvtec_loco'"):
        benchmark("mvtec_locco")
