from helpers.report_runs import experiment, section

DIFFERS = "What differs from the paper"


def all_finished(runs, options=(), seeds=3):
    for cell in experiment().cells:
        for seed in range(seeds):
            runs.finish(cell.name, seed, options=options)


def test_nothing_differs(runs):
    all_finished(runs, {"workers": 3, "milestones": [50.0, 75.0], "epochs": 100.0})
    assert section(runs.report(), DIFFERS).startswith("Nothing:")


def test_every_option_that_differs_is_said_with_both_values(runs):
    options = {"epochs": 5, "milestones": [2.5, 3.75], "data": "digits", "subset": 500}
    all_finished(runs, {**options, "validation": 0.1, "threads": 1}, seeds=2)
    of = experiment(notes=("The paper's curves are of *one* run each.",))
    text = runs.report(of, epochs=5, subset=500, data="digits", validation=0.1, seeds=2, threads=1)
    assert sorted(section(text, DIFFERS).splitlines()) == [
        "- The paper's curves are of *one* run each.",
        "- data: digits instead of cifar10",
        "- epochs: 5 instead of 100",
        "- milestones: 2.5, 3.75 instead of 50, 75",
        "- seeds: 2 finished of each cell instead of 3",
        "- subset: 500 instead of none",
        "- validation: 0.1 instead of its default",
    ]
    assert "8 of 8 runs finished" in text
    assert "- asked for: epochs 5, subset 500, data digits, validation 0.1, seeds 2\n" in text


def test_what_some_runs_differ_in_names_their_cells(runs):
    all_finished(runs)
    for seed in range(3):
        runs.finish("resnet20-sgd", seed, options={"batch_size": 512})
    said = section(runs.report(), DIFFERS)
    assert said == "- batch_size: 512 instead of 1024 (resnet20-sgd)"


def test_runs_of_one_cell_that_differ_among_themselves_are_told(runs):
    all_finished(runs)
    runs.finish("resnet20-sgd", 1, options={"epochs": 5})
    said = section(runs.report(), DIFFERS)
    assert "- **the runs of resnet20-sgd differ from each other in epochs**" in said.splitlines()
