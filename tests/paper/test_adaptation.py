import pytest

from sslortho.paper.adaptation import adapt, differing_settings, select_cells
from sslortho.paper.grid import Cell, Experiment, Plot, Table

OPTIONS = {"batch_size": 1024, "epochs": 200, "milestones": [100, 150], "validation": 0.1,
           "views": "supervised_small", "log_every": 10}  # fmt: skip


def experiment(**options):
    merged = {**OPTIONS, **options}
    cells = tuple(Cell(row, column, merged) for row in ("one", "two") for column in ("sgd", "adam"))
    return Experiment(
        name="small",
        title="A title",
        command="supervised",
        seeds=5,
        rows={"one": "One", "two": "Two"},
        columns={"sgd": "SGD", "adam": "Adam"},
        cells=cells,
        tables=(Table("T", "top1", {"one-sgd": (1.0, 0.1), "two-adam": (2.0, 0.1)}),),
        plots=(
            Plot("both", "B", "loss", tuple(cell.name for cell in cells), "epoch"),
            Plot("ones", "O", "loss", ("one-sgd", "one-adam"), "epoch"),
        ),
        notes=(),
    )


def options(**terms):
    (found,) = {str(sorted(c.options.items())): c.options
                for c in adapt(experiment(), **terms).cells}.values()  # fmt: skip
    return found


@pytest.mark.parametrize(
    ("only", "names"),
    [
        ([], ["one-sgd", "one-adam", "two-sgd", "two-adam"]),
        (["two"], ["two-sgd", "two-adam"]),
        (["adam"], ["one-adam", "two-adam"]),
        (["one", "two", "adam"], ["one-adam", "two-adam"]),
        (["adam", "one"], ["one-adam"]),
    ],
)
def test_keys_of_one_axis_are_alternatives_and_both_axes_must_match(only, names):
    assert [cell.name for cell in select_cells(experiment(), only).cells] == names


def test_what_is_about_other_cells_goes_with_them():
    chosen = select_cells(experiment(), ["two", "adam"])
    assert (dict(chosen.rows), dict(chosen.columns)) == ({"two": "Two"}, {"adam": "Adam"})
    assert chosen.tables[0].paper == {"two-adam": (2.0, 0.1)}
    assert [(plot.name, plot.cells) for plot in chosen.plots] == [("both", ("two-adam",))]


def test_an_unknown_key_is_an_error_that_names_the_nearest():
    with pytest.raises(
        ValueError, match=r"'adm' is not a row or column of small \(did you mean adam"
    ):
        select_cells(experiment(), ["one", "adm"])


def test_on_the_papers_terms_nothing_changes():
    assert adapt(experiment()) == experiment()
    assert adapt(experiment(), "cifar10", epochs=200, subset=50_000) == experiment()


def test_milestones_and_warm_up_move_with_the_epochs():
    moved = adapt(experiment(warmup_epochs=10), epochs=20).cells[0].options
    assert moved["epochs"] == 20
    assert moved["milestones"] == pytest.approx([10, 15])
    assert moved["warmup_epochs"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("terms", "batch_size"),
    [
        ({"subset": 50_000}, 1024),
        ({"subset": 10_000}, 1024),  # 9,000 images: 8 steps
        ({"subset": 9_000}, 512),  # 8,100: 7 of 1024
        ({"subset": 2_000}, 128),  # 1,800: 14 of 128, 7 of 256
        ({"subset": 256}, 16),
        ({"subset": 10}, 2),
        ({"data": "digits"}, 128),  # 1,437, of which 1,293
        ({"data": "digits", "subset": 100_000}, 128),
        ({"data": "folder"}, 1024),  # who knows
    ],
)
def test_few_images_have_a_smaller_batch(terms, batch_size):
    assert options(**terms)["batch_size"] == batch_size


def test_a_small_batch_is_not_made_larger():
    cells = adapt(experiment(batch_size=4), subset=256).cells
    assert {cell.options["batch_size"] for cell in cells} == {4}


def test_a_short_epoch_has_four_records():
    assert options(subset=256)["log_every"] == 3  # 230 // 16 = 14 steps


def test_other_data_have_views_of_their_own():
    assert options(data="digits")["views"] == "auto"
    assert options(subset=2000)["views"] == "supervised_small"
    large = experiment(crop_size=224)
    sizes = [adapt(large, data).cells[0].options["crop_size"] for data in ("digits", "folder")]
    assert sizes == [32, 224]


def test_what_differs_is_told_with_all_its_values():
    before = experiment()
    after = adapt(before, "digits", epochs=20)
    assert differing_settings(before, after, "log_every", "milestones") == {
        "batch_size": 128, "epochs": 20, "views": "auto",
    }  # fmt: skip
