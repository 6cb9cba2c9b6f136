"""Which ways to run one training end in the same bits, and which in the same up to rounding.

Differences are measured by `drift`: the largest difference of any weight, over the largest way that any
weight has gone since initialisation. Rounding grows from step to step, so trainings are short; and
orthonormalising raises what is small in a gradient, rounding included. What trains differently, as the
tests say of some pairs, drifts by 0.5 or more.
"""

import shutil

import pytest
import torch
from accelerate.state import AcceleratorState
from helpers.ranks import run_on_ranks
from helpers.trainings import PRETRAIN, drift, farthest, same_bits, train, trainings_of_rank
from PIL import Image

from sslortho.data.loading import Shard, create_train_loader, load_training_set
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.recipes.pretrain.resolve import resolve

ROUNDING = 0.02
"""Largest drift after 5 steps; 0.0065 is the most that was seen. After 15 steps, twice as much."""
ACCUMULATED = {"accumulation_steps": 2}
RAW_BF16 = {"optim": "lars", "mixed_precision": "bf16"}
LONG = {"epochs": 3, "evaluate_every": 1}  # 15 steps: several ranks agree to stop every 10

fsdp_on_cpu = pytest.mark.skipif(
    torch.__version__ < "2.7", reason="fully_shard of torch 2.6 needs a GPU"
)


@pytest.fixture(autouse=True)
def fresh_process():
    """Accelerate keeps what the first Accelerator of a process was told."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


TWO_RANKS = {
    "plain": {},
    "again": {},
    "accumulated": ACCUMULATED,
    "unshared": {"share": False},
    "shared": {"share": True},
    "own statistics": {"sync_batch_norm": False},
    "stopped on two": {**LONG, "stopped": True},
    "stopped on one": LONG,
}
SHARDED = {
    "sharded": {"shard": True},
    "sharded, accumulated": {"shard": True, **ACCUMULATED},
    "sharded, bf16": {"shard": True, **RAW_BF16},
    "sharded, stopped": {"shard": True, **LONG, "stopped": True},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("equivalence")


@pytest.fixture(scope="module")
def one_rank(folder):
    """Trains on one rank, once for the same options."""
    done: dict[tuple, dict] = {}

    def run(**options) -> dict:
        key = tuple(sorted(options.items()))
        if key not in done:
            done[key] = train(folder / f"one-{len(done)}", **options)
        return done[key]

    return run


@pytest.fixture(scope="module")
def two_ranks(folder):
    """Results of both ranks by the name of the training."""
    stopped = train(folder / "two" / "stopped on one", stopped=True, **LONG)
    assert stopped["step"] == 1
    trainings = TWO_RANKS | (SHARDED if torch.__version__ >= "2.7" else {})
    (folder / "ranks").mkdir()
    results = run_on_ranks(
        trainings_of_rank, 2, folder / "ranks", folder / "two", trainings, timeout=300
    )
    return {name: [result[name] for result in results] for name in trainings}


# On one rank


def test_twice_the_same_is_the_same_bits(one_rank, tmp_path):
    assert same_bits(train(tmp_path), one_rank())


def test_another_seed_is_another_training(one_rank, tmp_path):
    other = train(tmp_path, seed=1)
    assert farthest(other["end"], one_rank()["end"], matrices=True) > 0.1


@pytest.mark.slow
def test_accumulation_is_one_large_batch_where_samples_do_not_meet(one_rank, tmp_path):
    """Classification by a network without batch norm."""
    parts = train(tmp_path, supervised=True, **ACCUMULATED)
    assert drift(parts, one_rank(supervised=True)) < ROUNDING


def test_accumulation_is_another_training_where_samples_meet(one_rank):
    """Each part has its own batch norm statistics and correlation matrix."""
    assert drift(one_rank(**ACCUMULATED), one_rank()) > 0.5


@pytest.mark.slow
def test_bfloat16_is_near_and_its_own_bits_twice(one_rank, tmp_path):
    """Near where gradients stay raw: orthonormalised, rounding of 0.004 fills small directions."""
    assert 1e-3 < drift(one_rank(**RAW_BF16), one_rank(optim="lars")) < 0.4  # 0.27 seen
    half = one_rank(mixed_precision="bf16")
    assert same_bits(train(tmp_path, mixed_precision="bf16"), half)
    assert not same_bits(half, one_rank())


def test_deterministic_changes_no_bit_on_a_cpu(one_rank, tmp_path):
    try:
        assert same_bits(train(tmp_path, deterministic=True), one_rank())
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::FutureWarning")  # within torch
def test_compiled_is_not_compiled(one_rank, tmp_path):
    assert drift(train(tmp_path, compile=True), one_rank()) < ROUNDING


def test_neither_workers_nor_the_way_to_the_images_change_a_bit(tmp_path):
    """A folder read file by file, without threads and with, and one read into memory."""
    generator = torch.Generator().manual_seed(0)
    images = tmp_path / "data" / "train"
    images.mkdir(parents=True)
    for i in range(40):
        pixels = torch.randint(0, 256, (32, 32, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(images / f"{i}.png")
    data = {"data": "folder", "data_dir": str(images.parent), "subset": None}
    alone, workers, memory = (
        train(tmp_path / str(i), **data, **options)
        for i, options in enumerate(
            [{"loader": "files", "workers": 0}, {"loader": "files", "workers": 2},
             {"loader": "tensor"}]
        )
    )  # fmt: skip
    assert same_bits(workers, alone)
    assert same_bits(memory, alone)


# On two ranks


@pytest.mark.ranks
@pytest.mark.parametrize("name", [name for name in TWO_RANKS if name != "own statistics"])
def test_both_ranks_hold_the_same_bits(two_ranks, name):
    assert same_bits(*two_ranks[name])


@pytest.mark.ranks
def test_two_ranks_twice_are_the_same_bits(two_ranks):
    assert same_bits(two_ranks["again"][0], two_ranks["plain"][0])


@pytest.mark.ranks
@pytest.mark.parametrize(("name", "options"), [("plain", {}), ("accumulated", ACCUMULATED)])
def test_two_ranks_are_one(two_ranks, one_rank, name, options):
    assert drift(two_ranks[name][0], one_rank(**options)) < ROUNDING


@pytest.mark.ranks
def test_batch_norm_of_each_rank_alone_is_another_training(two_ranks, one_rank):
    assert drift(two_ranks["own statistics"][0], one_rank()) > 0.5


@pytest.mark.ranks
def test_shared_orthonormalisation_is_that_of_each_rank_alone(two_ranks):
    """Up to what `optim.sharing` says: one rank solves, in stacks of other sizes."""
    assert drift(two_ranks["shared"][0], two_ranks["unshared"][0]) < ROUNDING


@pytest.mark.ranks
@fsdp_on_cpu
@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("sharded", {}, ROUNDING),
        ("sharded, accumulated", ACCUMULATED, ROUNDING),
        ("sharded, bf16", RAW_BF16, 0.4),
    ],
)
def test_fsdp2_is_one_rank(two_ranks, one_rank, name, options, tolerance):
    assert drift(two_ranks[name][0], one_rank(**options)) < tolerance
    assert same_bits(*two_ranks[name])


# From one number of ranks to another


@pytest.mark.ranks
def test_two_ranks_go_on_from_one(two_ranks, one_rank):
    resumed = two_ranks["stopped on one"][0]
    assert resumed["evaluations"] == 3  # and not that before the first step
    assert drift(resumed, one_rank(**LONG)) < 2 * ROUNDING


@pytest.mark.ranks
@pytest.mark.parametrize(
    "name", ["stopped on two", pytest.param("sharded, stopped", marks=fsdp_on_cpu)]
)
def test_one_rank_goes_on_from_two(two_ranks, one_rank, folder, tmp_path, name):
    assert two_ranks[name][0]["step"] == 5  # at the end of the epoch, before its evaluation
    shutil.copytree(folder / "two" / name, tmp_path / "run")
    resumed = train(tmp_path / "run", **LONG)
    assert resumed["evaluations"] == 3  # after each epoch
    assert drift(resumed, one_rank(**LONG)) < 2 * ROUNDING


@pytest.mark.parametrize(("parts", "ranks", "said"), [(1, 3, "20 .* 3"), (4, 2, "5 .* 2")])
def test_a_batch_that_ranks_cannot_share_is_refused(parts, ranks, said):
    options = PretrainOptions.of(**{**PRETRAIN, "accumulation_steps": parts})
    data, views = load_training_set(options), resolve(options).views
    shard = Shard(torch.device("cpu"), 0, ranks)
    with pytest.raises(ValueError, match=f"batch of {said} ranks; choose a multiple"):
        create_train_loader(options, data, views, options.batch_size, shard, parts)
