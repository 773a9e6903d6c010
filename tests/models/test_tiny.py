import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from psn_tutorial.errors import UserError
from psn_tutorial.models.bases import TinyConfig
from psn_tutorial.models.decoder import forward
from psn_tutorial.models.tiny import build_model, build_tokenizer, load
from psn_tutorial.tasks import get_task


@pytest.fixture
def folder(policy, tmp_path):
    _, tokenizer, model = policy("countdown")
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_a_checkpoint_loads_with_the_auto_classes(policy, folder):
    """AutoTokenizer of transformers 5 replaces the tokenizer of some model types by their hub's: not of ours."""
    task, tokenizer, model = policy("countdown")
    for loaded, words in (
        load(folder),
        (AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)),
    ):
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, loaded.get_parameter(name))
        text = "15 - 11 = 4 , 4 * 13 = 52 , 2 + 52 = 54"
        assert words(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert words.decode(words(text)["input_ids"], skip_special_tokens=True) == text
        assert (words.bos_token, words.eos_token, words.pad_token) == ("<bos>", "<eos>", "<pad>")


@pytest.mark.parametrize("name", ["countdown", "rules", "chain"])
def test_every_word_is_one_token(name):
    task = get_task(name)
    tokenizer = build_tokenizer(task.words)
    assert len(tokenizer) == len(task.words) + 3
    for problem in task.generate(0, 20 if name != "chain" else 1):
        prompt = task.prompt(problem)
        assert len(tokenizer(prompt)["input_ids"]) == len(prompt.split()) + 1
        assert tokenizer(prompt)["input_ids"][0] == tokenizer.bos_token_id


def test_the_countdown_model_has_the_sizes_of_the_study():
    """Hidden 64, 2 layers, ff 256, 111 tokens: 138,880 parameters as a Qwen2, counted by hand for a Qwen3."""
    tokenizer = build_tokenizer(get_task("countdown").words)
    assert len(tokenizer) == 111
    sizes = {
        kind: sum(p.numel() for p in build_model(TinyConfig(kind), tokenizer).parameters())
        for kind in ("qwen2", "qwen3")
    }
    assert sizes == {"qwen2": 138_880, "qwen3": 138_880 - 2 * 3 * 64 + 2 * 2 * 16}


def test_the_seed_decides_the_weights_and_nothing_else_does():
    tokenizer = build_tokenizer(["a", "b"])
    build = lambda seed: torch.cat([p.flatten() for p in build_model(TinyConfig(), tokenizer, seed).parameters()])  # noqa: E731
    torch.manual_seed(5)
    first, state = build(0), torch.random.get_rng_state()
    torch.manual_seed(6)
    assert torch.equal(first, build(0)) and not torch.equal(first, build(1))
    torch.manual_seed(5)
    assert torch.equal(state, torch.random.get_rng_state())  # the caller's stream goes on untouched


def test_what_cannot_be_loaded_is_told_in_a_sentence(folder, tmp_path):
    with pytest.raises(UserError, match="checkpoint must be a folder with a config.json"):
        load(tmp_path / "nowhere")
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="cannot be loaded"):
        load(folder)
    weights.write_bytes(data)
    (folder / "config.json").write_text(json.dumps({"model_type": "no such type"}))
    with pytest.raises(UserError, match="cannot be loaded"):
        load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be loaded") as error:
        load(folder)
    assert "\n" not in str(error.value)


def test_loading_is_quiet_and_leaves_transformers_as_it_was(folder, capfd):
    logging.set_verbosity_info()
    logging.enable_progress_bar()
    try:
        load(folder)
        assert capfd.readouterr() == ("", "")
        assert logging.get_verbosity() == logging.INFO and logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity_warning()


def test_impossible_sizes_are_refused():
    with pytest.raises(UserError, match="hidden must be a multiple of heads"):
        TinyConfig(hidden=10, heads=4)
    with pytest.raises(UserError, match="hidden / heads must be even, got 6 / 2"):
        TinyConfig(hidden=6, heads=2, kv_heads=2)
    with pytest.raises(UserError, match="heads must be a whole number >= 1, got 0"):
        TinyConfig(heads=0)
    with pytest.raises(UserError, match="architecture must be one of 'qwen2', 'qwen3', got 'gpt2'"):
        TinyConfig("gpt2")


def test_both_architectures_run(policy):
    for kind in ("qwen2", "qwen3"):
        _, _, model = policy(sizes={"architecture": kind})
        assert forward(model, torch.ones(1, 3, dtype=torch.long)).isfinite().all()
