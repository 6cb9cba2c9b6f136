import pytest
from helpers.report_runs import experiment, section, table

from sslortho.paper.grid import Plot
from sslortho.paper.report import write_report


def test_memory_where_cells_differ_in_it(runs):
    for cell, size in (("basic_cnn-sgd", 0), ("basic_cnn-orth_sgd", 400), ("resnet20-sgd", 802)):
        runs.finish(cell, parameter_bytes=400, optimizer_state_bytes=size)
    lines = table(runs.report(), "Memory")
    assert lines[1:] == [["BasicCNN", "2 n", "3 n"], ["resnet20", "4 n", "-"]]
    for cell in experiment().cells:
        runs.finish(cell.name, parameter_bytes=400, optimizer_state_bytes=400)
    assert "## Memory" not in runs.report()


def test_commands_machine_and_versions(runs):
    runs.finish("basic_cnn-sgd", hardware="1 process(es), H100", versions={"torch": "2.9"},
                command="python scripts/supervised.py --lr 0.01")  # fmt: skip
    text = runs.report(epochs=5, data_dir="my data", only="basic_cnn,sgd")
    command = "sslortho reproduce table3 --epochs 5 --data_dir 'my data' --only basic_cnn,sgd"
    assert f"```bash\n{command}\n```" in text
    assert "```bash\nsslortho supervised --lr 0.01\n```" in text
    assert "- asked for: epochs 5, only basic_cnn,sgd\n" in text
    assert "- hardware: 1 process(es), H100\n- versions: torch 2.9\n" in text


@pytest.mark.parametrize(
    ("ran", "shown"),
    [
        ("python '/a b/scripts/supervised.py' --out '/c d/o'",
         "sslortho supervised --out '/c d/o'"),
        ("python supervised.py --lr 1", "sslortho supervised --lr 1"),
        ("python -m sslortho supervised --out '/c d/o'", "sslortho supervised --out '/c d/o'"),
        ("sslortho supervised --lr 1", "sslortho supervised --lr 1"),
        ("python /x/mine.py --from /y/supervised.py", "python /x/mine.py --from /y/supervised.py"),
        ("python", "python"),
        ("python '/cut", "python '/cut"),
    ],
)  # fmt: skip
def test_a_runs_command_is_the_installed_one(runs, ran, shown):
    runs.finish("basic_cnn-sgd", command=ran)
    assert f"One run:\n\n```bash\n{shown}\n```" in runs.report()


def test_nothing_is_there_yet(runs):
    of = experiment(plots=(Plot("figure2", "Figure 2", "accuracy", (), "epoch"),))
    text = write_report(of, runs.out / "not" / "yet", {}).read_text()
    assert "0 of 12 runs finished, 0 under way, 0 failed." in text
    assert "Figure 2: no run has recorded accuracy yet." in text
    assert section(text, "What differs from the paper") == "No run is finished yet."
