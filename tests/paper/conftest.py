import pytest
from helpers.report_runs import Runs


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path)
