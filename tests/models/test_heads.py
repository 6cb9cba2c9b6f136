import pytest
import safetensors.torch
import torch
from torch import nn

from sslortho.models import Projector, linear_classifier, write_classifier


def describe(module: nn.Module) -> tuple:
    if isinstance(module, nn.Linear):
        return ("linear", module.in_features, module.out_features, module.bias is not None)
    if isinstance(module, nn.BatchNorm1d):
        return ("batch norm", module.num_features, module.affine)
    return (type(module).__name__,)


@pytest.mark.parametrize(
    ("in_dim", "widths", "layers"),
    [
        (5, (7,), [("linear", 5, 7, False)]),
        (
            4,
            (6, 3),
            [("linear", 4, 6, False), ("batch norm", 6, True), ("ReLU",), ("linear", 6, 3, False)],
        ),
        (
            2048,
            (8192, 8192, 8192),  # facebookresearch/barlowtwins
            [
                ("linear", 2048, 8192, False),
                ("batch norm", 8192, True),
                ("ReLU",),
                ("linear", 8192, 8192, False),
                ("batch norm", 8192, True),
                ("ReLU",),
                ("linear", 8192, 8192, False),
            ],
        ),
    ],
    ids=str,
)
def test_layers_are_those_of_barlow_twins(in_dim, widths, layers):
    with torch.device("meta"):
        projector = Projector(in_dim, widths)
    assert [describe(module) for module in projector] == layers


def test_is_the_composition_of_its_layers():
    torch.manual_seed(0)
    projector, x = Projector(4, (6, 5, 3)), torch.randn(8, 4)
    weights = [module.weight for module in projector if isinstance(module, nn.Linear)]
    expected = x
    for weight in weights[:-1]:
        hidden = expected @ weight.T
        variance, mean = torch.var_mean(hidden, dim=0, correction=0)
        expected = ((hidden - mean) / (variance + 1e-5).sqrt()).clamp(min=0)
    torch.testing.assert_close(projector(x), expected @ weights[-1].T)


@pytest.mark.parametrize("widths", [(), (8, 0), (-1,)], ids=str)
def test_widths_must_be_positive(widths):
    with pytest.raises(ValueError, match=r"widths=.* must be one or more positive integers"):
        Projector(4, widths)


def test_a_linear_classifier_starts_small_and_unbiased():
    torch.manual_seed(0)
    classifier = linear_classifier(400, 250)
    assert classifier.weight.shape == (250, 400)
    assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not classifier.bias.any()


def test_a_written_classifier_is_its_two_tensors(tmp_path):
    classifier = linear_classifier(4, 3)
    write_classifier(classifier, tmp_path / "x.safetensors")
    written = safetensors.torch.load_file(tmp_path / "x.safetensors")
    assert written.keys() == {"weight", "bias"}
    assert torch.equal(written["weight"], classifier.weight.detach())
    assert torch.equal(written["bias"], classifier.bias.detach())
