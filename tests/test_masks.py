"""The one place where masks and shapes are checked."""

import pytest
import torch

from psn_tutorial.errors import UserError
from psn_tutorial.masks import first_unusable, token_mask


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.float64, torch.int64])
def test_every_kind_of_mask_becomes_boolean(dtype):
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    for fields in ({"logps": torch.zeros(2, 3)}, {"logps": torch.zeros(2, 3), "weights": None}, {}):
        got = token_mask(mask.to(dtype), **fields)
        assert got.dtype == torch.bool and torch.equal(got, mask.bool())


@pytest.mark.parametrize(
    "mask, fields, sentence",
    [
        (None, {}, "mask must be a torch.Tensor [B, T], got NoneType"),
        (torch.ones(2, 3), {"logps": [[0.0]]}, "logps must be a torch.Tensor [B, T], got list"),
        (torch.ones(3), {}, "mask must have the shape [B, T], got [3]"),
        (torch.ones(2, 3), {"logps": torch.ones(6)}, "logps must have the shape [B, T], got [6]"),
        (
            torch.ones(3, 5),
            {"logps": torch.ones(3, 5), "old_logps": None, "weights": torch.ones(3, 4)},
            "weights has the shape [3, 4], which does not match logps [3, 5]",
        ),
        (torch.ones(1, 5), {"logps": torch.ones(3, 5)}, "mask has the shape [1, 5], which does"),
        (torch.tensor([[1.0, 2.0]]), {}, "mask must hold only 0 and 1"),
        (torch.tensor([[1.0, float("nan")]]), {}, "mask must hold only 0 and 1"),
        (torch.tensor([[1, -1]]), {}, "mask must hold only 0 and 1"),
    ],
)
def test_refusals(mask, fields, sentence):
    with pytest.raises(UserError) as refusal:
        token_mask(mask, **fields)
    assert str(refusal.value).startswith(sentence)


def test_first_unusable_names_field_and_place_and_ignores_padding():
    mask = torch.tensor([[True, True], [True, False]])
    good, bad = torch.zeros(2, 2), torch.tensor([[0.0, 0.0], [float("inf"), float("nan")]])
    assert first_unusable(mask, a=good, b=good) == ""
    assert first_unusable(mask, a=good, b=bad).endswith("got inf in row 1, token 0")
    assert first_unusable(mask, a=bad.flip(0)).endswith("got inf in row 0, token 0")  # the first of two
    assert first_unusable(mask & torch.tensor([[True], [False]]), a=bad) == ""
