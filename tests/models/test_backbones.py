import pytest
import torch
import torchvision
from helpers.networks import trained
from scipy import stats
from torch import nn
from torchvision.models import get_model_weights

from sslortho.models import BACKBONES, create_backbone, feature_dim, initial_classifier
from sslortho.models.backbones import TORCHVISION
from sslortho.models.cifar_resnet import CifarResNet
from sslortho.models.network_facts import count_multiplications

DIMS = {
    "basic_cnn": 512,
    "resnet20": 64,
    "resnet32": 64,
    "resnet44": 64,
    "resnet56": 64,
    "resnet110": 64,
    "resnet20_postact": 64,
    "resnet32_postact": 64,
    "resnet44_postact": 64,
    "resnet56_postact": 64,
    "resnet110_postact": 64,
    "resnet18": 512,
    "resnet34": 512,
    "resnet50": 2048,
    "resnet101": 2048,
    "resnext50_32x4d": 2048,
    "wide_resnet50_2": 2048,
    "densenet121": 1024,
    "densenet161": 2208,
    "vit_small_32": 192,
}
DENSE = ("densenet121", "densenet161")
RESIDUAL = tuple(name for name in TORCHVISION if name not in DENSE)
STEMS = [
    *((name, stem) for name in TORCHVISION for stem in ("stock", "small")),
    *((name, "solo_learn") for name in RESIDUAL),
]


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


PUBLISHED = {
    "basic_cnn": (10, 24_714),  # arXiv 2202.07052, appendix A.1
    # those of github.com/akamaster/pytorch_resnet_cifar10, batch norm counted
    "resnet20_postact": (10, 269_722),
    "resnet32_postact": (10, 464_154),
    "resnet44_postact": (10, 658_586),
    "resnet56_postact": (10, 853_018),
    "resnet110_postact": (10, 1_727_962),
    # torchvision's documentation of its weights
    "resnet18": (1000, 11_689_512),
    "resnet34": (1000, 21_797_672),
    "resnet50": (1000, 25_557_032),
    "densenet121": (1000, 7_978_856),
    "densenet161": (1000, 28_681_000),
    "resnext50_32x4d": (1000, 25_028_904),
    "wide_resnet50_2": (1000, 68_883_240),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_backbone_and_classifier_have_the_published_number_of_parameters(name):
    classes, published = PUBLISHED[name]
    with torch.device("meta"):
        backbone = create_backbone(name)
        classifier = initial_classifier(name, DIMS[name], classes)
    assert count_parameters(backbone) + count_parameters(classifier) == published


def test_every_name_is_known_here():
    assert set(BACKBONES) == set(DIMS)


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_features_are_two_dimensional(name):
    with torch.device("meta"):
        backbone = create_backbone(name)
        features = backbone(torch.zeros(2, 3, 32, 32))
    assert features.shape == (2, DIMS[name])
    assert feature_dim(backbone, 32) == DIMS[name]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "stem"), STEMS)
def test_state_dict_fits_torchvisions_model_but_for_the_classifier(name, stem):
    with torch.device("meta"):
        ours = create_backbone(name, stem=stem).state_dict()
        theirs = torchvision.models.get_model(name, weights=None).state_dict()
    first = "features.conv0.weight" if name in DENSE else "conv1.weight"
    head = "classifier" if name in DENSE else "fc"
    differing = {first} if stem != "stock" else set()
    assert set(theirs) - set(ours) == {f"{head}.weight", f"{head}.bias"}
    assert set(ours) <= set(theirs)
    assert {key for key in ours if ours[key].shape != theirs[key].shape} == differing


def test_torchvisions_model_computes_the_same_features():
    torch.manual_seed(0)
    backbone, plain = create_backbone("resnet18").eval(), torchvision.models.resnet18().eval()
    for norm in (m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight)  # the last of each block starts at zero
    missing, unexpected = plain.load_state_dict(backbone.state_dict(), strict=False)
    assert (missing, unexpected) == (["fc.weight", "fc.bias"], [])
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(plain.fc(backbone(images)), plain(images))


def test_torchvisions_densenet_computes_the_same_features():
    backbone, plain = trained(create_backbone("densenet121")), torchvision.models.densenet121()
    plain.eval().load_state_dict(backbone.state_dict(), strict=False)
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(plain.classifier(backbone(images)), plain(images))


@pytest.mark.parametrize("silent", [None, True, False])
def test_residual_branches_start_silent(silent):
    """zero_init_residual, as in facebookresearch/barlowtwins; not in torchvision."""
    given = {} if silent is None else {"zero_init_residual": silent}
    backbone = create_backbone("resnet18", **given)
    last = [m.bn2.weight for m in backbone.modules() if type(m).__name__ == "BasicBlock"]
    assert len(last) == 8
    assert all((weight == (silent is False)).all() for weight in last)


@pytest.mark.parametrize("name", ["resnet20", "resnet20_postact", "basic_cnn", "densenet121"])
def test_other_networks_start_alike_whatever_zero_init_residual(name):
    states = []
    for silent in (True, False):
        torch.manual_seed(0)
        network = create_backbone(name, zero_init_residual=silent)
        states.append([value.double().sum() for value in network.state_dict().values()])
    assert states[0] == states[1]


@pytest.mark.slow
@pytest.mark.parametrize(("stem", "resolution"), [("stock", 8), ("small", 32)])
@pytest.mark.parametrize(("name", "channels"), [("densenet121", 64), ("densenet161", 96)])
def test_small_stem_of_a_densenet_keeps_the_resolution(name, channels, stem, resolution):
    shapes = []
    with torch.device("meta"):
        backbone = create_backbone(name, stem=stem)
        first = backbone.features.denseblock1
        first.register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape))
        backbone(torch.zeros(2, 3, 32, 32))
    assert shapes == [(2, channels, resolution, resolution)]


@pytest.mark.parametrize(("stem", "resolution"), [("stock", 8), ("small", 32), ("solo_learn", 34)])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_small_stem_keeps_the_resolution(name, stem, resolution):
    shapes = []
    with torch.device("meta"):
        backbone = create_backbone(name, stem=stem)
        backbone.layer1.register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape))
        backbone(torch.zeros(2, 3, 32, 32))
    assert shapes == [(2, 64, resolution, resolution)]


def test_solo_learns_stem_is_what_solo_learn_builds():
    """solo/methods/base.py: the two lines that change torchvision's network for CIFAR."""
    torch.manual_seed(0)
    backbone, theirs = create_backbone("resnet18", "solo_learn"), torchvision.models.resnet18()
    theirs.fc = nn.Identity()
    theirs.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=2, bias=False)
    theirs.maxpool = nn.Identity()
    theirs.load_state_dict(backbone.state_dict())
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(backbone.eval()(images), theirs.eval()(images))
    small = create_backbone("resnet18", "small").eval()
    small.load_state_dict(backbone.state_dict())
    assert not torch.allclose(small(images), backbone(images))


def test_convolutions_start_kaiming_normal():
    torch.manual_seed(0)
    weight = CifarResNet(20).layer3[1].conv2.weight
    expected = (2 / (weight.shape[0] * 9)) ** 0.5
    assert weight.std().item() == pytest.approx(expected, rel=0.02)
    assert weight.mean().item() == pytest.approx(0, abs=expected * 0.02)


@pytest.mark.parametrize("name", ["resnet56", "resnet56_postact"])
def test_classifiers_of_cifar_resnets_start_kaiming_normal(name):
    """arXiv 1502.01852, equation 10: deviation sqrt(2 / inputs). torch's default is uniform."""
    torch.manual_seed(0)
    network = CifarResNet(8, num_classes=500, post_activation=name.endswith("postact"))
    for classifier in (initial_classifier(name, 64, 500), network.fc):
        weight = classifier.weight.detach()
        assert weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.02)
        assert stats.kstest(weight.flatten() / weight.std(), "norm").pvalue > 1e-3


def test_a_densenets_classifier_starts_as_torchvisions():
    classifier = initial_classifier("densenet121", 64, 10)
    assert not classifier.bias.any()
    assert classifier.weight.std() > 0


@pytest.mark.parametrize("name", ["basic_cnn", "resnet50", "timm:resnet10t"])
def test_other_classifiers_start_as_torchs(name):
    torch.manual_seed(0)
    ours = initial_classifier(name, 64, 10).state_dict()
    torch.manual_seed(0)
    torch.testing.assert_close(ours, nn.Linear(64, 10).state_dict(), rtol=0, atol=0)


def test_small_stem_starts_kaiming_normal():
    torch.manual_seed(0)
    weight = create_backbone("resnet18", stem="small").conv1.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.06)


@pytest.mark.parametrize(("name", "dim"), [("convnext_atto", 320), ("resnet10t", 512)])
def test_any_model_of_timm(name, dim):
    backbone = create_backbone(f"timm:{name}")
    assert backbone(torch.zeros(2, 3, 64, 64)).shape == (2, dim)
    assert feature_dim(backbone, 64) == dim


@pytest.mark.parametrize("training", [True, False])
def test_feature_dim_leaves_the_backbone_as_it_was(training):
    backbone = create_backbone("resnet20").train(training)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    feature_dim(backbone, 32)
    assert all(module.training == training for module in backbone.modules())
    torch.testing.assert_close(backbone.state_dict(), before, rtol=0, atol=0)


def test_feature_dim_leaves_the_mode_of_every_module():
    backbone = create_backbone("resnet20").train()
    backbone.layer1.eval()  # as a frozen stage is
    feature_dim(backbone, 32)
    assert not backbone.layer1.training
    assert backbone.layer2.training


def test_feature_dim_depends_on_the_size_of_the_images():
    assert feature_dim(create_backbone("basic_cnn"), 64) == 32 * 8 * 8


def test_feature_maps_are_refused():
    with pytest.raises(ValueError, match=r"features of shape \(1, 4, 30, 30\)"):
        feature_dim(nn.Conv2d(3, 4, 3), 32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: create_backbone("resnet-18"), r"backbone='resnet-18'.*did you mean resnet18\?"),
        (
            lambda: create_backbone("densenet121", "solo_learn"),
            "backbone='densenet121' has no stem='solo_learn'.*stem='small'",
        ),
        (lambda: create_backbone("basiccnn"), "did you mean basic_cnn"),
        (lambda: create_backbone("???"), r"is not one of basic_cnn, .* or timm:NAME$"),
        (
            lambda: create_backbone("timm:convnext_ato"),
            "'timm:convnext_ato'.*did you mean convnext_atto",
        ),
        (
            lambda: create_backbone("timm:qqqq"),
            r"'timm:qqqq' is not a timm model; timm.list_models",
        ),
        (
            lambda: create_backbone("resnet18", stem="smal"),
            "stem='smal' is not one of 'stock', 'small', 'solo_learn'$",
        ),
    ],
)
def test_errors_name_the_nearest(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "densenet121"])
def test_multiplications_are_those_of_torchvisions_table(name):
    weights = get_model_weights(name).DEFAULT
    found = count_multiplications(create_backbone(name), 224) / 1e9
    assert found == pytest.approx(weights.meta["_ops"], rel=0.01)
