"""Models whose parameters FullyShardedDataParallel (FSDP1) has flattened are refused, not stepped raw."""

import copy

import pytest
import torch
from helpers.ranks import run_on_ranks
from torch import nn

from sslortho.optim import Muon, OrthSGD, describe_param_groups, param_groups
from sslortho.optim.wrapped import NormSGD

FLATTENED = "FullyShardedDataParallel flattens parameters"


def message_of(function) -> str:
    try:
        function()
    except ValueError as error:
        return str(error)
    return ""


def try_fsdp1(rank: int) -> dict[str, str]:
    from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy

    def wrap(model, *, original, strategy=ShardingStrategy.FULL_SHARD):
        return FullyShardedDataParallel(
            model,
            use_orig_params=original,
            sharding_strategy=strategy,
            device_id=torch.device("cpu"),
        )

    def layers() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))

    found = {}
    sharded, flat = wrap(layers(), original=True), wrap(layers(), original=False)
    found["groups"] = message_of(lambda: param_groups(sharded))
    found["inside"] = message_of(lambda: param_groups(nn.Sequential(sharded)))
    found["description"] = message_of(lambda: describe_param_groups(flat))
    found["flat parameters"] = message_of(lambda: OrthSGD(flat.parameters(), lr=0.1))
    model = layers()
    optimizer = OrthSGD(param_groups(model), lr=0.1)
    wrapped = wrap(model, original=True)
    wrapped(torch.ones(3, 4)).sum().backward()
    found["wrapped later"] = message_of(optimizer.step)
    whole = wrap(layers(), original=True, strategy=ShardingStrategy.NO_SHARD)
    found["whole"] = message_of(lambda: param_groups(whole))
    flat = wrap(layers(), original=False, strategy=ShardingStrategy.NO_SHARD)
    found["whole and flat"] = message_of(lambda: param_groups(flat))
    return found


@pytest.mark.ranks
def test_what_fsdp1_flattens_is_refused(tmp_path):
    for found in run_on_ranks(try_fsdp1, 2, tmp_path):
        assert found.pop("whole") == ""
        for what, message in found.items():
            assert FLATTENED in message, what
            assert "torch.distributed.fsdp.fully_shard (FSDP2)" in message


def matrix() -> nn.Parameter:
    parameter = nn.Parameter(torch.ones(2, 3))
    parameter.grad = torch.ones(2, 3)
    return parameter


def flatten(parameter: nn.Parameter) -> None:
    parameter.grad = None
    parameter.data = parameter.data.flatten()
    parameter.grad = torch.ones_like(parameter)


@pytest.mark.parametrize("cls", [OrthSGD, Muon, NormSGD])
def test_a_matrix_that_is_none_at_the_first_step(cls):
    parameter, raw = matrix(), matrix()
    bias = nn.Parameter(torch.ones(3))
    groups = [{"params": [raw], "orth": False}, {"params": [bias, parameter]}]
    optimizer = cls(groups, lr=0.1)
    optimizer.load_state_dict(optimizer.state_dict())
    flatten(parameter)
    flatten(raw)
    before = raw.detach().clone()
    with pytest.raises(ValueError, match=rf"shape \(6,\) now; {FLATTENED}"):
        optimizer.step()
    assert torch.equal(raw, before)
    parameter.grad, parameter.data = None, torch.ones(2, 3)
    optimizer.step()
    assert not torch.equal(raw, before)


def test_other_tensors_may_take_the_places_of_parameters():
    """As Accelerate does for FSDP2; and groups that were refused leave no trace."""
    optimizer = Muon([matrix()])
    with pytest.raises(ValueError, match="scale='x'"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3)), matrix()], "scale": "x"})
    bias = nn.Parameter(torch.ones(3))
    optimizer.add_param_group({"params": [bias], "orth": False})
    optimizer.param_groups[0]["params"][0] = matrix()
    copy.deepcopy(optimizer).step()
    optimizer.step()


def test_the_check_is_made_once(monkeypatch):
    optimizer = OrthSGD([matrix()], lr=0.1)
    optimizer.step()
    monkeypatch.setattr("sslortho.optim.replaced_gradients.check_still_matrices", None)
    optimizer.step()


def test_a_group_that_is_added_later_is_checked():
    optimizer = OrthSGD([matrix()], lr=0.1)
    optimizer.step()
    late = matrix()
    optimizer.add_param_group({"params": [late]})
    flatten(late)
    with pytest.raises(ValueError, match=FLATTENED):
        optimizer.step()


@pytest.mark.parametrize("cls", [OrthSGD, Muon])
def test_one_flat_parameter_for_many_is_refused(cls):
    """As DeepSpeed's ZeRO leaves the groups."""
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))
    optimizer = cls(param_groups(model), lr=0.1)
    for group in optimizer.param_groups:
        flat = nn.Parameter(torch.cat([p.detach().flatten() for p in group["params"]]))
        flat.grad = torch.ones_like(flat)
        group["params"] = [flat]
    with pytest.raises(ValueError, match=r"had 2 matrices .* flattened them"):
        optimizer.step()
