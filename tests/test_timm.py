"""timm's factory gives our optimizers what it gives its own."""

import functools
import importlib
import logging
import runpy
import sys

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2, get_optimizer_class, list_optimizers
from timm.optim.lookahead import Lookahead
from timm.scheduler import create_scheduler_v2
from torch import nn
from torch.nn.functional import cross_entropy

import sslortho.timm as sslortho_timm
from sslortho.optim import LARS, OPTIMIZERS, Muon, OrthAdamW, OrthLARS, OrthSGD, param_groups
from sslortho.optim.wrapped import ComponentNormSGD, NormSGD


def convolutions(seed=0) -> nn.Module:
    """Plain, grouped, depthwise and transposed convolutions, and layers that hold vectors."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=4, bias=False),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Conv2d(8, 8, 3, groups=8, padding=1),
        nn.ConvTranspose2d(8, 6, 2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    )


def small_vit() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=5, img_size=32)


def compute_gradients(model, step=0):
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(4, 3, 32, 32, generator=generator)
    model.zero_grad()
    cross_entropy(model(images), torch.arange(4)).backward()


def train(model, optimizer, steps=3):
    for step in range(steps):
        compute_gradients(model, step)
        optimizer.step()


def assert_same_weights(model, other):
    for (name, value), expected in zip(
        model.state_dict().items(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(value, expected), name


def split_by_dimension(model, weight_decay):
    """timm's rule, in one line: decay for what has more than one dimension."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


@pytest.mark.parametrize("spell", [str, str.upper, lambda name: name.replace("_", "-")])
@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("orth_sgd", OrthSGD),
        ("orth_adam", OPTIMIZERS["orth_adam"]),
        ("orth_adamw", OrthAdamW),
        ("orth_lars", OrthLARS),
        ("norm_sgd", NormSGD),
        ("component_norm_sgd", ComponentNormSGD),
        ("sslortho_lars", LARS),
        ("sslortho_muon", Muon),
    ],
)
def test_every_name_is_ours_in_every_spelling(name, cls, spell):
    optimizer = create_optimizer_v2(nn.Linear(3, 2), spell(name), lr=0.1)
    assert type(optimizer) is cls
    ahead = create_optimizer_v2(nn.Linear(3, 2), "lookahead_" + spell(name), lr=0.1)
    assert type(ahead) is Lookahead
    assert type(ahead._base_optimizer) is cls
    assert get_optimizer_class(spell(name), bind_defaults=False) is cls
    assert spell(name).lower() in list_optimizers()


def test_no_optimizer_of_ours_was_forgotten():
    ours = {name for name, cls in OPTIMIZERS.items() if cls.__module__.startswith("sslortho")}
    assert set(sslortho_timm.NAMES.values()) == ours


def test_timms_own_names_stay_timms():
    for name, cls in (("lars", timm.optim.Lars), ("sgd", torch.optim.SGD), ("adamw", None)):
        made = type(create_optimizer_v2(nn.Linear(3, 2), name, lr=0.1))
        assert made is (cls or torch.optim.AdamW)
    with pytest.raises(ValueError, match="orth-sdg not found"):
        create_optimizer_v2(nn.Linear(3, 2), "orth-sdg", lr=0.1)


def test_without_this_module_the_underscored_name_would_be_timms_own():
    """The reason for wrapping the registry's method: drop the wrapper when this fails."""
    registry = timm.optim._optim_factory.OptimizerRegistry()
    for name in ("sgd", "orth_sgd", "orth-sgd"):
        cls = torch.optim.SGD if name == "sgd" else OrthSGD
        registry.register(timm.optim.OptimInfo(name, cls, has_eps=False))
    assert type(registry.create_optimizer(nn.Linear(3, 2), "orth_sgd", lr=0.1)) is torch.optim.SGD
    assert type(registry.create_optimizer(nn.Linear(3, 2), "orth-sgd", lr=0.1)) is OrthSGD


@pytest.mark.parametrize(
    ("name", "cls", "options"),
    [
        ("orth_sgd", OrthSGD, {"momentum": 0.8, "nesterov": True, "polar": "svd"}),
        ("orth_adamw", OrthAdamW, {"betas": (0.8, 0.9), "eps": 1e-3, "foreach": False}),
        ("orth_lars", OrthLARS, {"momentum": 0.8, "trust_coefficient": 0.02}),
        ("sslortho_muon", Muon, {"momentum": 0.8, "betas": (0.8, 0.9), "scale": "moonlight"}),
        ("component_norm_sgd", ComponentNormSGD, {"momentum": 0.8, "foreach": False}),
    ],
)
def test_timms_groups_train_as_the_class_itself(name, cls, options):
    model, expected = convolutions(), convolutions()
    train(model, create_optimizer_v2(model, name, lr=0.1, weight_decay=0.2, **options))
    train(expected, cls(split_by_dimension(expected, 0.2), lr=0.1, **options))
    assert_same_weights(model, expected)
    other = convolutions()
    train(other, cls(other.parameters(), lr=0.1, **options))
    assert not torch.equal(other[0].weight, expected[0].weight)  # the decay is seen


@pytest.mark.parametrize("attention", ["whole", "heads"])
def test_our_groups_train_as_the_class_itself(attention):
    groups = functools.partial(param_groups, attention=attention)
    model, expected = small_vit(), small_vit()
    optimizer = create_optimizer_v2(
        model, "orth_sgd", lr=0.1, weight_decay=0.2, param_group_fn=groups
    )
    train(model, optimizer)
    train(expected, OrthSGD(groups(expected), lr=0.1, momentum=0.9, weight_decay=0.2))
    assert_same_weights(model, expected)


def test_defaults_are_momentum_without_nesterov_and_foreach():
    for name in ("orth_sgd", "orth_lars", "norm_sgd"):
        (group,) = create_optimizer_v2(nn.Linear(3, 2), name, lr=0.1).param_groups
        assert (group["momentum"], group["nesterov"], group["foreach"]) == (0.9, False, True)
    # train.py may hand these to whatever optimizer it is
    create_optimizer_v2(nn.Linear(3, 2), "orth_sgd", lr=0.1, eps=1e-3, betas=(0.8, 0.9))
    (group,) = create_optimizer_v2(nn.Linear(3, 2), "orth_sgd", lr=0.1, fused=True).param_groups
    assert group["fused"]


def spectral_norm(matrix):
    return float(torch.linalg.matrix_norm(matrix, 2))


def test_layer_decay_scales_the_rate_by_depth():
    model = small_vit()
    optimizer = create_optimizer_v2(
        model, "orth_sgd", lr=0.1, weight_decay=0.2, layer_decay=0.5, momentum=0.0
    )
    scheduler, _ = create_scheduler_v2(optimizer, "step", decay_epochs=9, num_epochs=9)
    scheduler.step(0)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    train(model, optimizer, steps=1)
    depth = len(model.blocks)
    for i, block in enumerate(model.blocks):
        weight = block.mlp.fc1.weight
        scale = 0.5 ** (depth - i)
        step = before[f"blocks.{i}.mlp.fc1.weight"] * (1 - 0.1 * scale * 0.2) - weight
        assert spectral_norm(step.detach()) == pytest.approx(0.1 * scale, rel=0.02)


def gradients_after_step(model, **options):
    """Gradients as the optimizer has left them, by name."""
    compute_gradients(model)
    create_optimizer_v2(model, "orth_sgd", lr=0.1, **options).step()
    return {name: value.grad for name, value in model.named_parameters()}


def is_orthonormal(matrix):
    singular = torch.linalg.svdvals(matrix)
    return bool(((singular - 1).abs() < 0.02).all())


def test_the_documented_table_of_convolutions():
    theirs = gradients_after_step(convolutions())
    ours = gradients_after_step(convolutions(), param_group_fn=param_groups)
    for grads in (theirs, ours):
        assert is_orthonormal(grads["0.weight"].flatten(1))
        # the head's gradient is deficient by one: five classes' rows sum to zero
        singular = torch.linalg.svdvals(grads["8.weight"])
        torch.testing.assert_close(
            singular, singular.new_tensor([1, 1, 1, 1, 0]), atol=0.02, rtol=0
        )
    # grouped: (8, 4, 3, 3) in two groups
    assert is_orthonormal(theirs["2.weight"].flatten(1))
    assert not is_orthonormal(ours["2.weight"].flatten(1))
    assert is_orthonormal(ours["2.weight"].reshape(2, 4, 36))
    # depthwise: (8, 1, 3, 3)
    assert is_orthonormal(theirs["3.weight"].flatten(1))
    rows = ours["3.weight"].flatten(1).norm(dim=1)
    torch.testing.assert_close(rows, torch.ones(8), atol=0.02, rtol=0)
    # transposed: (in 8, out 6, 2, 2)
    assert is_orthonormal(theirs["4.weight"].flatten(1))
    assert is_orthonormal(ours["4.weight"].transpose(0, 1).flatten(1))
    assert not is_orthonormal(ours["4.weight"].flatten(1))


def test_the_documented_table_of_a_transformer():
    theirs = gradients_after_step(small_vit())
    ours = gradients_after_step(small_vit(), param_group_fn=param_groups)
    raw = small_vit()
    compute_gradients(raw)
    raw = {name: value.grad for name, value in raw.named_parameters()}
    for name in ("pos_embed", "cls_token"):
        assert theirs[name].norm() == pytest.approx(1, abs=0.02)
        torch.testing.assert_close(theirs[name], raw[name] / raw[name].norm(), atol=0.02, rtol=0)
        assert torch.equal(ours[name], raw[name])
    assert raw["pos_embed"].norm() != pytest.approx(1, abs=0.02)
    for grads in (theirs, ours):
        for name in ("patch_embed.proj", "blocks.0.attn.qkv", "blocks.0.attn.proj"):
            matrix = grads[f"{name}.weight"].flatten(1)
            assert spectral_norm(matrix) == pytest.approx(1, abs=0.02), name
        assert torch.equal(grads["norm.weight"], raw["norm.weight"])


def test_tables_are_orthonormalised_unless_they_are_embedding_modules():
    class Tables(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(6, 4)
            self.relative_position_bias_table = nn.Parameter(torch.randn(6, 4))

    def step(**options):
        torch.manual_seed(0)
        model = Tables()
        (model.words.weight.pow(3) + model.relative_position_bias_table.pow(3)).sum().backward()
        create_optimizer_v2(model, "orth_sgd", lr=0.1, **options).step()
        tables = (model.words.weight, model.relative_position_bias_table)
        return [is_orthonormal(table.grad) for table in tables]

    assert step() == [True, True]
    assert step(param_group_fn=param_groups) == [False, True]


def test_importing_again_says_nothing_and_changes_nothing(caplog):
    registry = timm.optim._optim_factory.default_registry
    method, names = registry.create_optimizer, list_optimizers()
    with caplog.at_level(logging.WARNING):
        importlib.reload(sslortho_timm)
    assert not caplog.records
    assert registry.create_optimizer is method
    assert list_optimizers() == names


def test_an_old_timm_is_an_error_that_says_which_one_to_take(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.optim._optim_factory", None)
    with pytest.raises(ImportError, match=r"pip install 'timm>=1\.0\.12'"):
        sslortho_timm.register_optimizers()
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"needs timm: pip install"):
        sslortho_timm.register_optimizers()


SCRIPT = """
import sys
from timm.optim import create_optimizer_v2
from torch import nn
import neighbour
kind = type(create_optimizer_v2(nn.Linear(3, 2), sys.argv[2], lr=0.1))
print(__name__, sys.argv, kind.__name__, neighbour.VALUE)
"""


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")  # it is, in a test
def test_the_runner_runs_a_script_as_python_does(tmp_path, monkeypatch, capsys):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    (tmp_path / "neighbour.py").write_text("VALUE = 7")
    monkeypatch.setattr(sys, "argv", ["timm.py", str(script), "--opt", "orth_sgd", "--help"])
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    runpy.run_module("sslortho.timm", run_name="__main__")
    expected = f"__main__ {[str(script), '--opt', 'orth_sgd', '--help']} OrthSGD 7\n"
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(
    ("arguments", "said"), [(["nowhere.py"], "script='nowhere.py' is not a file"), ([], "script")]
)
def test_the_runner_names_a_missing_script(arguments, said, capsys):
    with pytest.raises(SystemExit) as caught:
        sslortho_timm.run_script(arguments)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
