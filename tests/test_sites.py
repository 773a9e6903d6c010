"""Which parameters get the noise, by role, depth, expression or a filter of one's own."""

import re
import sys
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from psn_tutorial.choices import LAYERS, TARGETS
from psn_tutorial.config import RunConfig
from psn_tutorial.errors import UserError
from psn_tutorial.noise import NoiseConfig, perturbed, select, stacked
from psn_tutorial.sites import check_layers, chosen, in_layers, layer_of, role

DEEP = {"sizes": {"layers": 7, "tied": False}}


def names(model):
    return [name for name, _ in model.named_parameters()]


def layer_by_split(name):
    """The layer's number by taking the name apart, as one would by hand."""
    parts = name.split(".")
    return int(parts[2]) if parts[1] == "layers" else None


@given(st.integers(1, 200))
def test_every_layer_is_in_one_third_and_the_thirds_are_symmetric(depth):
    thirds = {third: [i for i in range(depth) if in_layers(i, third, depth)] for third in LAYERS[1:]}
    assert sum(thirds.values(), []) == list(range(depth))  # in order, none twice, none left out
    assert [depth - 1 - i for i in thirds["last"]][::-1] == thirds["first"]
    assert max(map(len, thirds.values())) - min(map(len, thirds.values())) <= 1
    for i in range(depth):  # the middle of layer i, as a fraction of the depth
        middle = Fraction(2 * i + 1, 2 * depth)
        assert in_layers(i, "middle", depth) == (Fraction(1, 3) <= middle < Fraction(2, 3))


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_a_range_holds_both_its_ends(number, first, last):
    if first <= last:
        check_layers(f"{first}-{last}")
        assert in_layers(number, f"{first}-{last}", 41) == (first <= number <= last)
    else:
        with pytest.raises(UserError, match="layers must be one of"):
            check_layers(f"{first}-{last}")
    assert in_layers(number, str(first), 41) == (number == first)


@pytest.mark.parametrize("wrong", ["", "none", "-1", "1-", "1,2", "4:7", "0x1", "1.5", " 1", "middel", 3, None])
def test_anything_else_is_no_choice_of_layers(wrong):
    sentence = (
        "layers must be one of all, first, middle, last, a layer's number from 0, or a range such as 4-7, "
        f"got {wrong!r}"
    )
    for made in (lambda: NoiseConfig(0.1, layers=wrong), lambda: RunConfig(layers=wrong)):
        with pytest.raises(UserError, match=re.escape(sentence)):
            made()


def test_a_layer_is_read_from_the_name():
    assert layer_of("model.layers.12.mlp.up_proj.weight") == 12
    assert layer_of("base_model.model.model.layers.3.mlp.up_proj.base_layer.weight") == 3
    assert layer_of("transformer.h.5.attn.c_attn.weight") == 5
    assert layer_of("layers.0.mlp.weight") == 0
    for name in ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight", "model.layers.weight"):
        assert layer_of(name) is None


@pytest.mark.parametrize("draws", [[3], [3, 4]])
@pytest.mark.parametrize("targets", [t for t in TARGETS if t not in ("embeddings", "head")])
@pytest.mark.parametrize(
    ("layers", "numbers"),
    [("first", {0, 1}), ("middle", {2, 3, 4}), ("last", {5, 6}), ("4-7", {4, 5, 6}), ("2", {2}), ("all", None)],
)
def test_the_noise_is_that_of_all_layers_in_some_of_them_and_goes_away_bitwise(policy, targets, layers, numbers, draws):
    _, _, model = policy(**DEEP)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    everywhere = {}
    with perturbed(model, NoiseConfig(0.1, targets), draws[0]):
        everywhere.update({name: p.detach().clone() for name, p in model.named_parameters()})
    made = perturbed(model, NoiseConfig(0.1, targets, layers=layers), draws[0])
    if len(draws) > 1:
        made = stacked(model, NoiseConfig(0.1, targets, layers=layers), draws)
    expected = {
        name
        for name in names(model)
        if (targets == "all" or role(name) == targets) and (numbers is None or layer_by_split(name) in numbers)
    }
    with made as receipt:
        assert set(receipt.names) == expected
        if len(draws) == 1:
            for name, p in model.named_parameters():
                assert torch.equal(p, everywhere[name] if name in expected else before[name])
    assert all(torch.equal(p.view(torch.uint8), before[n].view(torch.uint8)) for n, p in model.named_parameters())


@pytest.mark.parametrize("targets", ["embeddings", "head"])
def test_what_stands_in_no_layer_has_no_depth(policy, targets):
    _, _, model = policy(**DEEP)
    name = {"embeddings": "model.embed_tokens.weight", "head": "lm_head.weight"}[targets]
    with pytest.raises(UserError, match=f"'first' leaves nothing of what targets '{targets}' .* and {name} is in none"):
        select(model, targets, "first")


def test_layers_that_the_model_has_not_are_a_sentence(policy):
    _, _, model = policy(**DEEP)
    with pytest.raises(UserError) as told, perturbed(model, NoiseConfig(0.1, layers="7-9")):
        pass
    assert str(told.value) == (
        "layers '7-9' leaves nothing of what targets 'mlp' names in the model: its 7 layers are numbered from 0"
    )
    _, _, two = policy(sizes={"layers": 2})
    with pytest.raises(UserError, match="layers 'middle' leaves nothing .* its 2 layers"):
        select(two, "mlp", "middle")
    with pytest.raises(UserError, match="it has no numbered layers, and weight is in none"):
        chosen(["weight"], "weight", "0")
    with pytest.raises(UserError, match="'expert' matches no parameter"):  # and not: the layers leave nothing
        select(model, "expert", "first")


# A filter of one's own


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A function that writes the module own_sites into the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])

    def write(body):
        sys.modules.pop("own_sites", None)
        (tmp_path / "own_sites.py").write_text(body, encoding="utf-8")

    yield write
    sys.modules.pop("own_sites", None)


def test_an_own_filter_names_the_parameters_and_depth_narrows_it(policy, own):
    _, _, model = policy(**DEEP)
    own("def second(name):\n    return name.endswith('down_proj.weight')")
    every = {name for name in names(model) if name.endswith("down_proj.weight")}
    assert len(every) == 7
    for layers, expected in (("all", every), ("2", {"model.layers.2.mlp.down_proj.weight"})):
        with perturbed(model, NoiseConfig(0.1, "own_sites:second", layers=layers)) as receipt:
            assert set(receipt.names) == expected


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("second = 3", "targets own_sites:second must be a function of a parameter's name, got 3"),
        ("def second(name): return 1", "targets own_sites:second must return True or False, got 1 for model.embed"),
        ("def second(): pass", "targets own_sites:second fails on model.embed_tokens.weight: TypeError: second()"),
        ("def second(name): return name[0] / 2", "fails on model.embed_tokens.weight: TypeError: unsupported operand"),
        ("def second(name): return False", "targets 'own_sites:second' matches no parameter of the model"),
        (
            "first = 1",
            "the module own_sites (",
        ),
        ("1 /", "the module own_sites cannot be imported: SyntaxError"),
    ],
)
def test_a_fault_in_an_own_filter_is_a_sentence(policy, own, body, sentence):
    _, _, model = policy(**DEEP)
    own(body)
    with pytest.raises(UserError, match=re.escape(sentence)):
        select(model, "own_sites:second")
