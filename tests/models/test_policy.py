"""Prompts as a policy reads them."""

import pytest

from psn_tutorial.errors import UserError
from psn_tutorial.models.policy import encode


def test_prompts_are_padded_on_the_left(policy):
    _, tokenizer, _ = policy()
    ids, mask = encode(tokenizer, ["1 2 3 :", "4 :"])
    assert mask.tolist() == [[True] * 5, [False, False, True, True, True]]
    assert tokenizer.decode(ids[1], skip_special_tokens=True) == "4 :"


def test_an_unknown_word_is_named(policy):
    _, tokenizer, _ = policy()
    with pytest.raises(UserError, match="prompt '1 banana :' holds a word"):
        encode(tokenizer, ["1 2 :", "1 banana :"])
