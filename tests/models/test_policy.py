"""Prompts as a policy reads them, and the tokens that end its answers."""

import json

import pytest
import torch
from tokenizers import processors

from psn_tutorial.cli import main
from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.sampling import evaluate
from psn_tutorial.models.bases import base_folder
from psn_tutorial.models.policy import asked, encode, end_tokens
from psn_tutorial.models.tiny import CHATML, load
from psn_tutorial.noise import stream
from psn_tutorial.rollout import responses, sample
from psn_tutorial.tasks import get_task


@pytest.fixture
def chat(language_model):
    """A small language model; <|endoftext|> is its token 0, <|im_start|> 1 and <|im_end|> 2."""
    return load(language_model)


def test_prompts_are_padded_on_the_left(policy):
    _, tokenizer, _ = policy()
    tokenizer.padding_side = "right"  # as many checkpoints have it
    ids, mask = encode(tokenizer, ["1 2 3 :", "4 :"])
    assert mask.tolist() == [[True] * 5, [False, False, True, True, True]]
    assert tokenizer.decode(ids[1], skip_special_tokens=True) == "4 :"


def test_an_unknown_word_is_named(policy):
    _, tokenizer, _ = policy()
    with pytest.raises(UserError, match="prompt '1 banana :' holds a word"):
        encode(tokenizer, ["1 2 :", "1 banana :"])


@pytest.mark.parametrize("padding", ["<|im_end|>", None])
def test_a_prompt_may_hold_the_padding_token_and_there_may_be_none(chat, padding):
    """SmolLM2 pads with the token that ends the turns of its prompts, Llama has no padding token at all."""
    texts = ["<|im_start|>user\nWhat is 1 + 2?<|im_end|>\n<|im_start|>assistant\n", "How many?"]
    usual = sample(chat, encode(chat.tokenizer, texts), 3, 5, stream(0, "test"))
    chat.tokenizer.pad_token = padding
    prompts = encode(chat.tokenizer, texts)
    assert [row[row != 0].tolist() for row in prompts.ids * prompts.mask] == chat.tokenizer(texts)["input_ids"]
    other = sample(chat, prompts, 3, 5, stream(0, "test"))
    assert torch.equal(other.logps, usual.logps) and torch.equal(other.mask, usual.mask)
    assert chat.tokenizer.pad_token == padding, "what is saved later is what was loaded"


def test_a_prompt_begins_once_and_does_not_end(policy):
    """Llama's template writes the token that Llama's tokenizer puts before every text; others close every text."""
    _, tokenizer, _ = policy()
    assert encode(tokenizer, ["<bos> 1 2 :"]).ids.tolist() == encode(tokenizer, ["1 2 :"]).ids.tolist()
    usual = encode(tokenizer, ["1 2 :"]).ids.tolist()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    assert encode(tokenizer, ["1 2 :"]).ids.tolist() == usual
    assert encode(tokenizer, ["1 2 <eos>"]).ids[0, -1] == 2


def test_a_prompt_of_nothing_is_told(chat):
    with pytest.raises(UserError, match="prompt '' has no tokens"):
        encode(chat.tokenizer, ["How many?", ""])


def test_every_token_that_ends_a_text_or_a_turn_is_an_end(chat):
    model, tokenizer = chat
    assert end_tokens(chat) == [2]
    tokenizer.eos_token, tokenizer.chat_template, model.generation_config.eos_token_id = "<|endoftext|>", None, None
    assert end_tokens(chat) == [0]
    model.generation_config.eos_token_id = 1
    assert end_tokens(chat) == [0, 1]
    model.generation_config.eos_token_id = [5, 0, 10**6]  # the model has no such token
    assert end_tokens(chat) == [0, 5]
    tokenizer.chat_template = CHATML
    assert end_tokens(chat) == [0, 5, 2]
    tokenizer.eos_token, tokenizer.chat_template, model.generation_config.eos_token_id = None, None, None
    assert end_tokens(chat) == []
    del model.generation_config
    assert end_tokens(chat) == []


TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}{{ m.content }}"


@pytest.mark.parametrize(
    ("template", "ends"),
    [
        (CHATML, ["<|im_end|>"]),
        (TURNS + "  <|im_end|><|endoftext|>{% endfor %}", ["<|im_end|>"]),
        (TURNS + "{% endfor %}", []),
        (TURNS + " and so on <|im_end|>{% endfor %}", []),
        ("{% if messages[0].role != 'system' %}{{ raise_exception('system!') }}{% endif %}" + CHATML, ["<|im_end|>"]),
        ("{% if messages[0].role == 'system' %}{{ raise_exception('system?') }}{% endif %}" + CHATML, ["<|im_end|>"]),
        ("{{ raise_exception('never') }}", []),
        ("{% for", []),
        ("<|im_start|>{{ strftime_now('%d %B %Y') }}" + CHATML, ["<|im_end|>"]),
        ("<|im_end|>", []),  # does not write what was said
    ],
)
def test_the_template_is_asked_how_a_turn_ends(chat, template, ends):
    model, tokenizer = chat
    tokenizer.eos_token, tokenizer.chat_template, model.generation_config.eos_token_id = None, template, None
    assert tokenizer.convert_ids_to_tokens(end_tokens(chat)) == ends


def test_what_follows_the_end_of_a_turn_is_not_judged():
    """The shipped sums as a base model of Qwen is: <|endoftext|> for the tokenizer and the generation settings, while
    the turns end with <|im_end|>. With <|endoftext|> alone a third of the right answers are lost."""
    task = get_task("math", source="sums", completion=40)
    policy, problems = load(base_folder("sums")), task.problems("eval")[:30]
    solved = [sum(result.c for result in evaluate(policy, task, problems, samples=8))]
    policy.tokenizer.eos_token, policy.model.generation_config.eos_token_id = "<|endoftext|>", 0
    solved.append(sum(result.c for result in evaluate(policy, task, problems, samples=8)))
    ended = policy.tokenizer.chat_template
    policy.tokenizer.chat_template = ended.replace(
        "+ '<|im_end|>\n'", "+ ('<|im_end|>\n' if turn.role != 'assistant' else '')"
    )
    assert policy.tokenizer.chat_template != ended  # nothing says how an assistant's turn ends
    solved.append(sum(result.c for result in evaluate(policy, task, problems, samples=8)))
    assert abs(solved[1] - solved[0]) <= 0.1 * solved[0] and solved[2] < 0.8 * solved[0]


def test_each_end_token_is_kept_and_none_is_read(policy):
    """Near uniform, so that both end tokens, a special one and a word, are often written."""
    task, tokenizer, model = policy("chain", scale=2.0)
    word = tokenizer.convert_tokens_to_ids("A")
    model.generation_config.eos_token_id = [word]
    prompts = encode(tokenizer, [task.prompt(task.generate(0, 1)[0])])
    rollouts = sample((model, tokenizer), prompts, 400, 6, stream(0, "test"))
    last = set()
    for tokens, mask, ended in zip(rollouts.tokens.tolist(), rollouts.mask, rollouts.ended, strict=True):
        ends = [i for i, token in enumerate(tokens) if token in (word, tokenizer.eos_token_id)]
        length = ends[0] + 1 if ends else 6
        assert mask.tolist() == [True] * length + [False] * (6 - length) and bool(ended) == bool(ends)
        assert tokens[length:] == [tokenizer.pad_token_id] * (6 - length)
        last.add(tokens[length - 1] if ends else None)
    assert last == {word, tokenizer.eos_token_id, None}
    assert any(tokens[-1] == word for tokens in rollouts.tokens.tolist()), "an end at the last place is an end too"
    assert not any("A" in text for text in responses(tokenizer, rollouts))
    free = sample((model, tokenizer), prompts, 400, 6, stream(0, "test"), ends=False)
    assert not free.ended.any() and free.mask.all() and any("A" in text for text in responses(tokenizer, free))


# What the model reads


class Talk(get_task("rules").__class__):
    """A task that is a conversation."""

    def messages(self, problem):
        return [{"role": "system", "content": "Be short."}, {"role": "user", "content": self.prompt(problem)}]


def test_a_conversation_is_written_as_the_tokenizers_own_template_writes_it(chat):
    (_, tokenizer), task = chat, Talk()
    problem = task.generate(0, 1)[0]
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}] {{ m.content }};{% endfor %}"
        "{% if add_generation_prompt %}[me]{% endif %}{% if enable_thinking is false %}!{% endif %}"
    )
    assert asked(tokenizer, task, [problem]) == [f"[system] Be short.;[user] {task.prompt(problem)};[me]!"]
    rules = get_task("rules")
    assert asked(tokenizer, rules, [problem]) == [rules.prompt(problem)]


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        (None, "the tokenizer must have a chat template, for the task rules is a conversation, got none"),
        ("{{ raise_exception('no system turn, please') }}", "chat template fails .* rules: no system turn, please"),
        ("{% if %}", "chat template fails on a conversation of the task rules: "),
    ],
)
def test_a_template_that_is_missing_or_fails_is_a_sentence(chat, template, sentence):
    (_, tokenizer), task = chat, Talk()
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=sentence):
        asked(tokenizer, task, task.generate(0, 1))


def test_a_prompt_longer_than_the_model_was_made_for_is_a_sentence_before_a_run(chat, language_model, tmp_path, capsys):
    question = "How many apples? " * 200
    file = tmp_path / "long.jsonl"
    file.write_text(json.dumps({"question": question, "answer": "3"}) + "\n")
    run = str(tmp_path / "run")
    words = ["--task", "math", "--train-file", str(file), "--difficulty", "source=sums", "--base", str(language_model)]
    assert main(["train", *words, "--prompts", "1", "--no-evaluate", "--out", run]) == 2
    assert (
        "prompts must have fewer than 512 tokens, for which the model was made: problem 'How" in capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()
