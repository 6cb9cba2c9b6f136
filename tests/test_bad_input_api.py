"""Every kind of mistake, at the functions and classes that people import."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from sslortho.augment import EvaluationSpec, ViewSpec, create_views
from sslortho.data import EpochOrder, balanced_subset, hold_out, load_split
from sslortho.evaluate import (
    AccuracyCounts,
    LogisticRegression,
    NeighbourSearch,
    feature_std,
    knn_accuracy,
    knn_predict,
    rankme,
    select_l2,
    vote,
)
from sslortho.losses import BarlowTwinsLoss
from sslortho.models import (
    LoadReport,
    Projector,
    RestoredBackbone,
    create_backbone,
    export_backbone,
    feature_dim,
    read_weights,
)
from sslortho.optim import (
    LARS,
    OPTIMIZERS,
    OrthAdam,
    OrthAdamW,
    OrthLARS,
    OrthSGD,
    create_optimizer,
    orthogonal,
    orthonormalise_,
    param_groups,
    polar,
)

NAN, INF = math.nan, math.inf
NAMES = sorted(OPTIMIZERS)
ORTHOGONAL = [OrthSGD, OrthAdam, OrthAdamW, OrthLARS]


def parameter(*shape, dtype=torch.float32, device="cpu"):
    """A parameter with a gradient."""
    result = torch.ones(shape, dtype=dtype, device=device, requires_grad=True)
    result.grad = torch.ones_like(result)
    return result


def refused(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def table(rows):
    """Cases that pytest names by their message."""
    return pytest.mark.parametrize(("call", "message"), rows, ids=[row[1] for row in rows])


NUMBERS = [
    ("lr", -0.1), ("lr", NAN), ("lr", INF), ("lr", "0.1"), ("lr", None), ("lr", torch.tensor(NAN)),
    ("lr", torch.tensor([0.1, 0.1])), ("lr", 1j), ("weight_decay", -1e-4), ("weight_decay", NAN),
    ("weight_decay", INF), ("weight_decay", "x"), ("momentum", -0.1), ("momentum", NAN),
    ("momentum", INF),
]  # fmt: skip


@pytest.mark.parametrize(("option", "value"), NUMBERS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_number_of_an_optimizer(name, option, value):
    options = {"lr": 0.1, option: value}
    expected = f"{option}="  # where the optimizer has no such option that is what is said
    refused(lambda: create_optimizer(name, [parameter(2, 3)], **options), expected)


@pytest.mark.parametrize("lr", [-0.1, NAN, INF])
@pytest.mark.parametrize("cls", [LARS, *ORTHOGONAL])
def test_a_rate_as_keyword_as_argument_and_of_a_group(cls, lr):
    matrix = parameter(2, 3)
    refused(lambda: cls([matrix], lr=lr), f"lr={lr}")
    with pytest.raises(ValueError, match=str(lr)):  # of torch's words where it has some
        cls([matrix], lr)
    optimizer = cls([matrix], lr=0.1)
    refused(lambda: optimizer.add_param_group({"params": [parameter(3)], "lr": lr}), f"lr={lr}")
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("rate", [0, 1, 0.5, torch.tensor(0.1), torch.tensor([0.1])])
@pytest.mark.parametrize("cls", [LARS, OrthSGD, OrthLARS])
def test_rates_that_are_taken(cls, rate):
    optimizer = cls([parameter(2, 3)], lr=rate)
    assert optimizer.param_groups[0]["lr"] is rate


@pytest.mark.parametrize("name", NAMES)
def test_parameters_that_are_none(name):
    for parameters, message in (
        ([], "empty parameter list"),
        (iter(()), "empty parameter list"),
        ([parameter(2, 3) * 2], "non-leaf"),
        (["weight"], "can only optimize Tensors"),
        (parameter(2, 3), "iterable"),
        (None, "NoneType"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            create_optimizer(name, parameters, lr=0.1)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("orth_")])
@pytest.mark.parametrize(
    ("dtype", "kind"), [(torch.complex64, "complex"), (torch.float8_e5m2, "float8_e5m2")]
)
def test_types_that_are_not_orthonormalised(name, dtype, kind):
    odd = torch.zeros(2, 3, dtype=dtype, requires_grad=True)
    refused(lambda: create_optimizer(name, [odd], lr=0.1), rf"\(2, 3\) is {kind}.*orth=False")
    create_optimizer(name, [odd], lr=0.1, orth=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_taken(name, dtype):
    matrix = parameter(3, 4, dtype=dtype)
    create_optimizer(name, [matrix], lr=0.5).step()
    assert matrix.dtype == dtype
    assert matrix.isfinite().all()
    assert not torch.equal(matrix, torch.ones_like(matrix)) or "lars" in name


@pytest.mark.parametrize("name", [name for name in NAMES if "_" in name])
def test_the_meta_device_has_nothing_to_orthonormalise(name):
    refused(create_optimizer(name, [parameter(2, 3, device="meta")], lr=0.1).step, "meta device")


@table(
    [
        (lambda: create_optimizer("orht_lars", [parameter(2)]), "did you mean orth_lars"),
        (lambda: create_optimizer(None, [parameter(2)]), "optim=None is not one of"),
        (
            lambda: create_optimizer("lars", [parameter(2)], lr=1, polar="svd"),
            "polar='svd' is not an",
        ),
        (lambda: create_optimizer("lars", [parameter(2)], lr=1, momentun=0), "mean momentum"),
        (lambda: LARS([parameter(2)], lr=1, trust_coefficient=NAN), "trust_coefficient=nan"),
        (lambda: LARS([parameter(2)], lr=1, trust_coefficient=INF), "trust_coefficient=inf"),
        (lambda: OrthSGD([parameter(2)], lr=1, orth="yes"), "orth='yes'"),
        (lambda: OrthSGD([parameter(2)], lr=1, polar="svdd"), "did you mean svd"),
        (lambda: OrthSGD([parameter(2)], lr=1, polar=None), "polar=None"),
        (lambda: OrthSGD([parameter(2)], lr=1, rank_tol=NAN), "rank_tol=nan"),
        (lambda: OrthSGD([parameter(2)], lr=1, rank_tol=1.0), "rank_tol=1.0"),
        (lambda: OrthSGD([parameter(2)], lr=1, share="perhaps"), "share='perhaps'"),
        (lambda: OrthSGD([parameter(2, 3)], lr=1, orth_components=0), "orth_components=0"),
        (lambda: OrthSGD([parameter(2, 3)], lr=1, orth_components=3), "orth_components=3"),
        (lambda: OrthSGD([parameter(2, 3)], lr=1, orth_components=1.0), "orth_components=1.0"),
        (lambda: OrthSGD([parameter(2, 3)], lr=1, orth_view="diagonal"), "orth_view='diagonal'"),
        (lambda: orthogonal(torch.optim.LBFGS), r"orthogonal\(LBFGS\)"),
        (lambda: orthogonal(OrthSGD), "already"),
        (lambda: orthogonal("sgd"), "orthogonal takes a subclass"),
        (lambda: orthogonal(nn.Linear), "orthogonal takes a subclass"),
    ]
)
def test_optimizers(call, message):
    refused(call, message)


@table(
    [
        (lambda: polar(torch.ones(3)), r"shape \(3,\)"),
        (lambda: polar(torch.tensor(1.0)), r"shape \(\)"),
        (lambda: polar(torch.ones(2, 3, dtype=torch.int64)), "torch.int64"),
        (lambda: polar(torch.ones(2, 3, dtype=torch.bool)), "torch.bool"),
        (lambda: polar(torch.ones(2, 3, dtype=torch.complex64)), "torch.complex64"),
        (lambda: polar(torch.zeros(2, 3, dtype=torch.float8_e5m2)), "torch.float8_e5m2"),
        (lambda: polar(torch.ones(2, 3, device="meta")), "on meta"),
        (lambda: polar(torch.ones(2, 3).to_sparse()), "torch.sparse_coo"),
        (lambda: polar(torch.eye(3), "exact"), "polar='exact'"),
        (lambda: polar(torch.eye(3), rank_tol=-0.1), "rank_tol=-0.1"),
        (lambda: polar(torch.eye(3), rank_tol=NAN), "rank_tol=nan"),
        (lambda: polar(torch.eye(3), rank_tol=INF), "rank_tol=inf"),
        (lambda: orthonormalise_([parameter(2, 3)], "exact"), "polar='exact' is"),
        (lambda: orthonormalise_([parameter(2, 3)], components=5), "orth_components=5"),
        (lambda: orthonormalise_([parameter(2, 3)], view="x"), "orth_view='x'"),
        (lambda: orthonormalise_([parameter(2, 3)], share="auto"), "share='auto'"),
        (lambda: orthonormalise_([parameter(2, 3, device="meta")]), "meta device"),
        (lambda: orthonormalise_(parameter(2, 3, dtype=torch.complex64)), "is complex"),
    ]
)
def test_polar_factors(call, message):
    refused(call, message)


@table(
    [
        (lambda: param_groups(nn.Linear(2, 3).parameters()), "model=generator must be a torch.nn"),
        (lambda: param_groups([parameter(2, 3)]), "model=list must be a torch.nn"),
        (lambda: param_groups(nn.ReLU()), "no trainable parameters"),
        (lambda: param_groups(nn.Linear(2, 3).requires_grad_(False)), "no trainable"),
        (lambda: param_groups(nn.LazyLinear(3)), "lazy parameters"),
        (lambda: param_groups(nn.Linear(2, 3), orth="dense"), "orth='dense'"),
        (lambda: param_groups(nn.Linear(2, 3), orth=[]), r"orth=\[\]"),
        (lambda: param_groups(nn.Linear(2, 3), attention="head"), "attention='head'"),
        (lambda: param_groups(nn.Linear(2, 3), attention="heads"), "no attention layer"),
    ]
)
def test_groups_of_parameters(call, message):
    refused(call, message)


@pytest.mark.parametrize("option", ["lr", "lr_biases", "weight_decay"])
@pytest.mark.parametrize("value", [-1.0, NAN, INF])
def test_numbers_of_groups_are_checked_by_the_optimizer(option, value):
    groups = param_groups(nn.Linear(2, 3), **{option: value})
    refused(lambda: OrthLARS(groups, lr=0.1), f"{option.removesuffix('_biases')}={value}")


Z = torch.eye(4, 3)


@table(
    [
        (lambda: BarlowTwinsLoss(-1.0), "lambda_param=-1.0"),
        (lambda: BarlowTwinsLoss(NAN), "lambda_param=nan"),
        (lambda: BarlowTwinsLoss(INF), "lambda_param=inf"),
        (lambda: BarlowTwinsLoss(form="grm"), "did you mean gram"),
        (lambda: BarlowTwinsLoss(form=None), "form=None"),
        (lambda: BarlowTwinsLoss()(Z, Z[:3]), r"\(4, 3\) and \(3, 3\)"),
        (lambda: BarlowTwinsLoss()(Z, Z[:, :2]), r"\(4, 3\) and \(4, 2\)"),
        (lambda: BarlowTwinsLoss()(Z[0], Z[0]), r"\(3,\) and"),
        (lambda: BarlowTwinsLoss()(Z[None], Z[None]), r"\(1, 4, 3\) and"),
        (lambda: BarlowTwinsLoss()(Z[:1], Z[:1]), "a batch of 1"),
        (lambda: BarlowTwinsLoss()(Z[:0], Z[:0]), "a batch of 0"),
        (lambda: BarlowTwinsLoss()(Z[:, :0], Z[:, :0]), r"one dimension or more.*\(4, 0\)"),
        (lambda: BarlowTwinsLoss()(Z.long(), Z.long()), "real floating point.*torch.int64"),
        (lambda: BarlowTwinsLoss()(Z, Z.long()), "torch.float32 and torch.int64"),
        (lambda: BarlowTwinsLoss()(Z + 0j, Z + 0j), "real floating point.*torch.complex64"),
        (lambda: BarlowTwinsLoss()(Z, Z.to("meta")), "got cpu and meta"),
        (lambda: BarlowTwinsLoss()(Z.to("meta"), Z.to("meta")), "got meta and meta"),
    ]
)
def test_the_loss(call, message):
    refused(call, message)


@table(
    [
        (lambda: create_backbone("resnet5"), "did you mean resnet"),
        (lambda: create_backbone(""), "backbone='' is not"),
        (lambda: create_backbone(None), "backbone=None is not"),
        (lambda: create_backbone(18), "backbone=18 is not"),
        (lambda: create_backbone("timm:"), "is not a timm model"),
        (lambda: create_backbone("timm:no_such_net"), "is not a timm model"),
        (lambda: create_backbone("resnet18", "tiny"), "stem='tiny'"),
        (lambda: create_backbone("resnet18", None), "stem=None"),
        (lambda: feature_dim(create_backbone("basic_cnn"), 0), "crop_size=0"),
        (lambda: feature_dim(create_backbone("basic_cnn"), -1), "crop_size=-1"),
        (lambda: Projector(4, ()), r"widths=\(\)"),
        (lambda: Projector(4, (8, 0)), r"widths=\(8, 0\)"),
        (lambda: Projector(0, (8,)), "in_dim=0"),
        (lambda: read_weights("no_such_file.pt"), "does not exist"),
        (lambda: read_weights("/dev/null"), "dev/null"),
    ]
)
def test_models(call, message):
    refused(call, message)


@pytest.mark.parametrize(
    ("format", "message"),
    [
        ("tensorflow", "format='tensorflow' is not one of timm, torchvision, hub, onnx"),
        ("", "format='' is not"),
        ("timm", "format='timm' has no backbone='basic_cnn'"),
        ("torchvision", "format='torchvision' has no backbone='basic_cnn'"),
    ],
)
def test_a_format_of_weights(format, message, tmp_path):
    restored = RestoredBackbone(
        network=create_backbone("basic_cnn"), name="basic_cnn", stem="stock", info=None,
        report=LoadReport(file="x", prefix="", matched=0),
    )  # fmt: skip
    refused(lambda: export_backbone(restored, format, tmp_path / "out.pt"), message)
    assert not list(tmp_path.iterdir())


def spec(**options):
    return lambda: ViewSpec(**options)


@table(
    [
        (spec(crop_size=0), "crop_size=0"),
        (spec(crop_scale=(0.5, 0.1)), "crop_scale"),
        (spec(crop_scale=(NAN, 1.0)), "crop_scale"),
        (spec(crop_ratio=(0.0, 1.0)), "crop_ratio"),
        (spec(crop_padding=-1), "crop_padding=-1"),
        (spec(brightness=1.5), "brightness=1.5"),
        (spec(contrast=NAN), "contrast=nan"),
        (spec(hue=0.6), "hue=0.6"),
        (spec(blur_taps=4), "blur_taps=4"),
        (spec(blur_taps=23, crop_size=8), "blur_taps=23 is too long"),
        (spec(blur_sigma=(2.0, 0.1)), "blur_sigma"),
        (spec(solarise_threshold=128), "not of 255"),
        (spec(std=(1.0, 1.0, 0.0)), "std="),
        (lambda: EvaluationSpec(crop_size=32, resize=16), "resize=16"),
        (lambda: create_views("barlow_twins", 0), "crop_size=0 must"),
        (lambda: create_views("barlow_twins_small", -4), "crop_size=-4"),
    ]
)
def test_views(call, message):
    refused(call, message)


@pytest.mark.parametrize("value", [-0.1, 1.1, NAN, INF])
@pytest.mark.parametrize(
    "name", [f.name for f in dataclasses.fields(ViewSpec) if f.name.endswith("_p")]
)
def test_a_probability_of_a_view(name, value):
    refused(spec(**{name: value}), f"{name}={value}")


@pytest.fixture(scope="module")
def digits():
    return load_split("digits", None, "train")


@pytest.mark.parametrize("size", [0, -1, 10_000])
def test_a_subset(digits, size):
    refused(lambda: balanced_subset(digits, size, seed=0), f"subset={size}")


@pytest.mark.parametrize("share", [0.0, 1.0, 1e-9])
def test_a_share_to_hold_out(digits, share):
    refused(lambda: hold_out(digits, share, seed=0), f"validation={share}")


@table(
    [
        (lambda: load_split("digit", None, "train"), "did you mean digits"),
        (lambda: load_split("folder", None, "train"), "needs data_dir"),
        (lambda: load_split("folder", "nowhere", "train"), "nowhere"),
        (lambda: load_split("beton", "nowhere", "train"), "nowhere.*no train.beton"),
        (lambda: EpochOrder(10, 11), "batch_size=11"),
        (lambda: EpochOrder(10, 0), "a batch of 0"),
        (lambda: EpochOrder(10, 5, world_size=2), "a batch of 5"),
        (lambda: EpochOrder(10, 4, rank=2, world_size=2), "rank=2"),
        (lambda: EpochOrder(10, 4, seed=-1), "seed=-1"),
        (lambda: EpochOrder(10, 4, seed=2**32), "seed=4294967296"),
    ]
)
def test_data(call, message):
    refused(call, message)


X, Y = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1] * 3)

FEATURES = [
    (X[:, 0], "got torch.float32 of shape"),
    (X[None], "got torch.float32 of shape"),
    (X + 0j, "got torch.complex64"),
    (torch.where(X > 0, X, NAN), "finite"),
    (torch.where(X > 0, X, INF), "finite"),
]


@pytest.mark.parametrize(("features", "message"), FEATURES, ids=[m for _, m in FEATURES])
def test_features(features, message):
    refused(lambda: LogisticRegression(features, Y), message)
    refused(lambda: select_l2(features, Y), message)
    refused(lambda: knn_predict(features, Y, X), message)
    refused(lambda: NeighbourSearch(features, 2), message)
    refused(lambda: rankme(features), message)
    refused(lambda: feature_std(features), message)


@pytest.mark.parametrize("features", [X[:0], X[:, :0]])
def test_no_features(features):
    refused(lambda: rankme(features), "must be at least one")
    refused(lambda: feature_std(features), "must be at least one")


LABELS = [
    (Y[:5], r"\(5,\)"),
    (Y[:, None], r"\(6, 1\)"),
    (Y.float(), "torch.float32"),
    (Y.int(), "torch.int32"),
    (Y.bool(), "torch.bool"),
]


@pytest.mark.parametrize(("labels", "message"), LABELS, ids=[m for _, m in LABELS])
def test_labels(labels, message):
    refused(lambda: LogisticRegression(X, labels), message)
    refused(lambda: select_l2(X, labels), message)
    refused(lambda: knn_predict(X, labels, X), message)
    refused(lambda: AccuracyCounts().add(X, labels), message)


def test_labels_that_are_no_class():
    refused(lambda: LogisticRegression(X, Y - 1), "go down to -1")
    refused(lambda: LogisticRegression(X, Y, classes=1), "classes=1")
    refused(lambda: LogisticRegression(X, 0 * Y), "two classes or more")
    refused(lambda: select_l2(X, Y - 1), "go down to -1")
    refused(lambda: knn_predict(X, Y - 1, X), "only labelled images")
    counts = AccuracyCounts()
    counts.add(X, Y + 2)
    refused(counts.percentages, "labels are not among 0 to 2")


@table(
    [
        (lambda: LogisticRegression(X, Y, -1.0), "l2=-1.0"),
        (lambda: LogisticRegression(X, Y, NAN), "l2=nan"),
        (lambda: LogisticRegression(X, Y, INF), "l2=inf"),
        (lambda: LogisticRegression(X[:0], Y[:0]), "no images"),
        (lambda: select_l2(X, Y, held_out=NAN), "held_out=nan"),
        (lambda: select_l2(X, Y, held_out=1.0), "held_out=1.0"),
        (lambda: select_l2(X, Y, candidates=[1.0]), "candidates"),
        (lambda: select_l2(X, Y, candidates=[NAN, 1.0]), "candidates=.*nan"),
        (lambda: knn_predict(X, Y, X, k=0), "k=0"),
        (lambda: knn_predict(X, Y, X, k=NAN), "k=nan"),
        (lambda: knn_predict(X, Y, X, temperature=0.0), "temperature=0.0"),
        (lambda: knn_predict(X, Y, X, temperature=NAN), "temperature=nan"),
        (lambda: knn_predict(X, Y, X, temperature=INF), "temperature=inf"),
        (lambda: knn_predict(X, Y, X[:, :2]), "cannot be neighbours"),
        (lambda: knn_predict(X, torch.full_like(Y, -1), X), "labels from -1 to -1.*only labelled"),
        (lambda: knn_predict(X[:0], Y[:0], X), "the bank is empty"),
        (lambda: NeighbourSearch(X, -1), "k=-1"),
        (lambda: vote(X, Y, 2, 0.1), r"both be \(m, k\)"),
        (lambda: vote(X, X, 2, 0.1), "int64, got"),
        (lambda: vote(X, X.long() + 9, 2, 0.1), "labels from"),
        (lambda: vote(X, X.long(), 2, NAN), "temperature=nan must"),
        (lambda: knn_accuracy(X, X.long(), Y, 0, 0.1), "classes=0"),
        (lambda: knn_accuracy(X, X.long(), Y[:5], 2, 0.1), "the 5 labels"),
        (lambda: AccuracyCounts().add(X[0], Y), "do not fit"),
        (lambda: AccuracyCounts().add(X[:, :0], Y), r"shape \(6, 0\)"),
        (lambda: AccuracyCounts().add(X + 0j, Y), "scores must be real"),
        (lambda: AccuracyCounts().percentages(), "no images were classified"),
    ]
)
def test_evaluations(call, message):
    refused(call, message)


def test_scores_that_are_not_finite():
    counts = AccuracyCounts()
    counts.add(X * NAN, Y)
    refused(counts.percentages, "the scores of 6 of 6 images are not finite")
