"""bench_precision.py: a row for each network."""

import pytest

from bench_precision import CASES, main


@pytest.mark.slow
def test_the_table_has_a_ratio_for_each_network(capsys, monkeypatch):
    monkeypatch.setattr(
        "bench_precision.CASES", [(name, stem, 32, 2) for name, stem, *_ in CASES[:2]]
    )
    monkeypatch.setattr("sys.argv", ["bench_precision.py"])
    main()
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[1].strip() for row in rows] == [name for name, *_ in CASES[:2]]
    assert all(float(row[5]) > 0 for row in rows)
