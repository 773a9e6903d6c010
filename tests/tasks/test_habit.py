"""The lists against the same lists written out here, and the exact probability against the logits of a model."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.sampling import exact_success
from psn_tutorial.models.bases import TinyConfig
from psn_tutorial.models.policy import Policy
from psn_tutorial.models.tiny import build_model, build_text_tokenizer
from psn_tutorial.tasks import get_task
from psn_tutorial.tasks.habit import Habit


def written(words, first):
    """The answer that has these words, by hand."""
    text = f" {words[0]}"
    for number, word in zip(range(first + 1, first + len(words)), words[1:], strict=True):
        text += "\n" + str(number) + ". " + word
    return text


def test_the_prompt_is_a_number_after_lists_that_count_on():
    task = get_task("habit", steps=3, examples=40)
    *lists, asked = task.prompt(37).split("\n\n")
    assert asked == "37." and len(lists) == 40
    words = []
    for each in lists:
        lines = [line.split(". ") for line in each.split("\n")]
        numbers = [int(number) for number, _ in lines]
        assert numbers == list(range(numbers[0], numbers[0] + 3)) and 10 <= numbers[0] and numbers[-1] <= 99
        words += [word for _, word in lines]
    assert set(words) == {"cat", "dog"} and 4 <= words.count("dog") <= 22  # 12 of 120 on average
    assert task.prompt(38).split("\n\n")[:-1] == lists, "so that a batch reads them once"


def test_the_share_of_the_rare_word_is_its_prior():
    words = Habit(examples=64, steps=32, rare_prior=0.3).prompt(10).split()
    assert words.count("dog") / (words.count("dog") + words.count("cat")) == pytest.approx(0.3, abs=0.05)


@given(words=st.lists(st.sampled_from(["cat", "dog"]), min_size=4, max_size=4), first=st.integers(10, 96))
def test_right_is_the_rare_word_throughout(words, first):
    task = Habit(steps=4)
    assert task.completion(words, first) == written(words, first)
    verdict = task.verify(written(words, first), first)
    assert verdict.correct == (words == ["dog"] * 4) == (written(words, first) in task.accepted(first))
    assert task.strategy(written(words, first)) == words.count("dog") / 4
    if verdict.correct:
        assert (verdict.reason, verdict.solution, verdict.family) == ("", "dog dog dog dog", "4 of 4")
        assert [verdict.solution] == task.solutions(first) and [verdict.family] == task.families(first)
    else:
        assert verdict.reason == f"entry {words.index('cat') + 1}: cat, not dog" and verdict.solution is None


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("", "entry 1: '' is none of cat, dog"),
        (" dogs\n38. dog", "entry 1: 'dogs' is none of cat, dog"),
        (" dog", r"entry 2 does not begin with '\n38. '"),
        (" dog\n39. dog", r"entry 2 does not begin with '\n38. '"),
        (" dog\n38.dog", r"entry 2 does not begin with '\n38. '"),
        (" dog 38. dog", r"entry 2 does not begin with '\n38. '"),
        (" dog\n38. Dog", "entry 2: 'Dog' is none of cat, dog"),
        (" cat\n38. fish", "entry 2: 'fish' is none of cat, dog"),
        ("dog\n38. cat", "entry 2: cat, not dog"),
        ("w" * 10**7, "entry 1: 'wwwwwwwwwwww' is none of cat, dog"),
    ],
)
def test_every_rejection_gives_its_reason(response, reason):
    assert (verdict := Habit(steps=2).verify(response, 37)).reason == reason and not verdict.correct


@pytest.mark.parametrize("after", ["", "\n39. cat", "\n\n12. cat", ", and more"])
def test_what_follows_the_last_word_is_not_looked_at(after):
    assert Habit(steps=2).verify(" dog\n38. dog" + after, 37).correct
    assert Habit(steps=2).verify("dog\n38. dog" + after, 37).correct, "some tokenizers lose the first space"


def test_problems_differ_and_training_never_sees_those_of_the_evaluation():
    task = Habit(steps=32)
    held_out, own = task.problems("eval"), task.problems("train")
    assert len({*held_out, *own}) == len(held_out) + len(own) == 58
    assert min(held_out + own) >= 10 and max(held_out + own) + 31 <= 99
    assert task.generate(3, 5) == task.generate(3, 5) != task.generate(4, 5)
    assert all(task.from_json(task.to_json(problem), "line 1") == problem for problem in own)
    with pytest.raises(UserError, match="count must be at most 1, the first numbers that are not excluded, got 2"):
        task.generate(0, 2, exclude=task.generate(0, 59)[:58])


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"steps": 0}, "steps must be"),
        ({"examples": -1}, "examples must be"),
        ({"usual": "two words"}, "usual must be one word of letters, got 'two words'"),
        ({"rare": 3}, "rare must be one word of letters, got 3"),
        ({"rare": "cat"}, "usual and rare must be two words, got 'cat' for both"),
        ({"rare_prior": 1}, "rare_prior must be between 0 and 1, got 1"),
    ],
)
def test_impossible_difficulties_are_told(fields, sentence):
    with pytest.raises(UserError, match=sentence):
        get_task("habit", **fields)


@pytest.mark.parametrize("first", [9, 93, "37", None])
def test_a_line_of_a_problem_file_is_checked(first):
    with pytest.raises(UserError, match="line 4: first must be"):
        Habit().from_json({"first": first}, "line 4")


def test_the_probability_of_a_right_answer_is_that_of_its_tokens_after_the_prompt():
    task = Habit(steps=2, examples=0, usual="a", rare="b")
    tokenizer = build_text_tokenizer(["10. a\n11. b\n"] * 50)
    model = build_model(TinyConfig("qwen2", hidden=16, ff=32, heads=2, kv_heads=1), tokenizer).eval()
    (text,) = task.accepted(10)
    asked, ids = len(tokenizer("10.")["input_ids"]), tokenizer("10." + text)["input_ids"]
    with torch.no_grad():
        for matrix in (p for p in model.parameters() if p.dim() == 2):
            matrix.mul_(20)
        logits = model(torch.tensor([ids])).logits[0].double()
    expected = sum(float(logits[place - 1].log_softmax(0)[ids[place]]) for place in range(asked, len(ids)))
    assert exact_success(Policy(model, tokenizer), task, 10) == pytest.approx(math.exp(expected), rel=1e-4)


def test_the_tokens_of_an_answer_fit():
    """One for each digit, sign and word: what max_tokens counts on."""
    task = Habit(steps=3)
    tokenizer = build_text_tokenizer([task.prompt(10)] * 5)
    assert len(tokenizer(task.accepted(37)[0])["input_ids"]) == task.max_tokens(37) == 11
