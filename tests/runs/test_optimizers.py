"""Optimisers: a restored one takes the same steps, bit for bit."""

import json

import pytest
import torch

from psn_tutorial.errors import UserError
from psn_tutorial.runs.folder import RunFolder
from psn_tutorial.runs.optimizers import pack_optimizer, unpack_optimizer


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", {"seed": 1})


class Net(torch.nn.Module):
    def __init__(self, names=("first", "second", "third")):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weights = {
            name: torch.nn.Parameter(torch.randn(5, 5, generator=generator)) for name in ("first", "second", "third")
        }
        for name in names:  # the order of registration, not the values, follows ``names``
            self.register_parameter(name, weights[name])

    def forward(self, x):
        return torch.tanh(torch.tanh(x @ self.first) @ self.second) @ self.third


def optimise(net, optimizer, steps):
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        x = torch.randn(8, 5, generator=generator).to(net.first.dtype)
        net(x).square().mean().backward()
        optimizer.step()


def adamw(net, order):
    named = dict(net.named_parameters())
    return torch.optim.AdamW(
        [
            {"params": [named[name] for name in order[:2]], "weight_decay": 0.3},
            {"params": [named[name] for name in order[2:]], "lr": 0.02},
        ],
        lr=0.01,
        betas=(0.8, 0.95),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_restored_optimiser_goes_on_bitwise_whatever_the_order(run, dtype):
    net = Net().to(dtype)
    optimizer = adamw(net, ["first", "second", "third"])
    whole = Net().to(dtype)
    whole_optimizer = adamw(whole, ["first", "second", "third"])
    optimise(whole, whole_optimizer, range(6))
    optimise(net, optimizer, range(3))
    tensors, state = pack_optimizer(optimizer, net)
    assert "first/exp_avg" in tensors and "third/step" in tensors
    run.save_checkpoint(3, {"model": net.state_dict(), "optimizer": tensors}, {"optimizer": state})

    found = run.latest_checkpoint()
    other = Net(("third", "first", "second")).to(dtype)
    other.load_state_dict(found.tensors["model"])
    other_optimizer = adamw(other, ["second", "first", "third"])
    for group in other_optimizer.param_groups:
        group["lr"] = 99.0  # must come from the checkpoint
    unpack_optimizer(other_optimizer, other, found.tensors["optimizer"], found.state["optimizer"])
    assert [group["betas"] for group in other_optimizer.param_groups] == [(0.8, 0.95)] * 2
    optimise(other, other_optimizer, range(3, 6))
    for name, parameter in whole.named_parameters():
        assert torch.equal(dict(other.named_parameters())[name], parameter)
    repacked, restate = pack_optimizer(other_optimizer, other)
    expected, _ = pack_optimizer(whole_optimizer, whole)
    assert repacked.keys() == expected.keys()
    assert all(torch.equal(repacked[key], expected[key]) for key in expected)
    assert restate["groups"][1]["options"] == state["groups"][1]["options"]


def test_an_optimiser_that_has_not_stepped_yet(run):
    net = Net()
    tensors, state = pack_optimizer(adamw(net, ["first", "second", "third"]), net)
    assert tensors == {}
    run.save_checkpoint(0, {"optimizer": tensors}, state)
    found = run.latest_checkpoint()
    optimizer = adamw(net, ["first", "second", "third"])
    unpack_optimizer(optimizer, net, found.tensors["optimizer"], found.state)
    assert len(optimizer.state) == 0


def test_plain_numbers_in_an_optimisers_state_survive(run):
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    optimise(net, optimizer, range(2))
    optimizer.state[net.first]["count"] = 7
    tensors, state = pack_optimizer(optimizer, net)
    fresh = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    unpack_optimizer(fresh, net, tensors, json.loads(json.dumps(state)))
    assert fresh.state[net.first]["count"] == 7
    assert fresh.param_groups[0]["lr"] == 0.1
    for parameter in net.parameters():
        old, new = (o.state[parameter]["momentum_buffer"] for o in (optimizer, fresh))
        assert torch.equal(old, new)


def test_the_state_of_other_parameters_is_refused():
    net = Net()
    optimizer = adamw(net, ["first", "second", "third"])
    optimise(net, optimizer, range(1))
    tensors, state = pack_optimizer(optimizer, net)
    with pytest.raises(UserError, match="other parameters or groups: the groups differ"):
        unpack_optimizer(adamw(net, ["third", "second", "first"]), net, tensors, state)
    fewer = torch.optim.AdamW([net.first, net.second])
    with pytest.raises(UserError, match="other parameters or groups: third"):
        unpack_optimizer(fewer, net, tensors, state)
    with pytest.raises(ValueError, match="a parameter that the model does not"):
        pack_optimizer(optimizer, torch.nn.Linear(2, 2))
