"""Encoders: what each one says, each text encoded once, and no network that nobody asked for."""

import shutil
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from psn_tutorial.errors import UserError
from psn_tutorial.models import encoders
from psn_tutorial.models.bases import base_folder
from psn_tutorial.models.encoders import SentenceEncoder, bag_of_words, sentence_encoder
from psn_tutorial.models.tiny import load
from psn_tutorial.signals import semantic_similarity
from psn_tutorial.tasks import get_task
from psn_tutorial.tasks.registry import TASK_NAMES

TEXTS = ["3 + 4 = 7 , 7 * 2 = 14", "3 + 4 = 7", "7 = 4 + 3", ""]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_a_bag_of_words_counts_words():
    counts = bag_of_words(TEXTS)
    assert counts.shape == (4, encoders.SLOTS)
    assert sorted(counts[0][counts[0] > 0].tolist()) == [1, 1, 1, 1, 1, 1, 1, 2, 2]  # 3 + 4 , * 2 14 | = and 7 twice
    assert counts.sum(1).tolist() == [11, 5, 5, 1]
    assert torch.equal(counts[1], counts[2])  # blind to the order
    torch.testing.assert_close(torch.nn.functional.cosine_similarity(counts[:1], counts[1:2]).item(), 7 / 75**0.5)


@pytest.mark.parametrize("name", TASK_NAMES)
def test_the_words_of_a_task_have_slots_of_their_own(name):
    words = get_task(name).words
    assert len(bag_of_words(words).argmax(1).unique()) == len(words)


def test_each_different_text_is_encoded_once_and_stands_where_it_was():
    seen = []
    encoder = SentenceEncoder("spy", lambda texts: seen.extend(texts) or bag_of_words(texts).double())
    vectors = encoder.encode(["b", "a b", "b", "c", "a b"])
    assert seen == ["b", "a b", "c"]
    assert vectors.dtype == torch.float32
    assert torch.equal(vectors, bag_of_words(["b", "a b", "b", "c", "a b"]))
    with pytest.raises(UserError, match="texts must hold at least one text, got none"):
        encoder.encode([])


def test_auto_takes_what_the_machine_has(monkeypatch):
    monkeypatch.setattr(encoders, "_cached", lambda repository: False)
    assert sentence_encoder().name == sentence_encoder("bag-of-words").name == "bag-of-words"
    asked = []
    monkeypatch.setattr(encoders, "_cached", lambda repository: asked.append(repository) or True)
    monkeypatch.setattr(encoders, "_load", lambda name: asked.append(name))
    assert sentence_encoder("auto").name == "all-MiniLM-L6-v2"
    assert asked == ["sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2"]


def test_the_hub_cache_is_asked_for_what_is_there(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert not encoders._cached("owner/name")
    snapshot = tmp_path / "models--owner--name" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (snapshot / "modules.json").write_text("[]")
    (tmp_path / "models--owner--name" / "refs").mkdir()
    (tmp_path / "models--owner--name" / "refs" / "main").write_text("0")
    assert encoders._cached("owner/name")


def test_a_tiny_policy_reads_the_text_and_its_states_are_averaged(tmp_path):
    """Against transformers alone; and what sentence-transformers saves is loaded from its folder again."""
    encoder = sentence_encoder("countdown")
    model, tokenizer = load(base_folder("countdown"))
    vectors = encoder.encode(TEXTS)
    assert encoder.name == "countdown" and vectors.shape == (4, 64) and not vectors.requires_grad
    for text, vector in zip(TEXTS, vectors, strict=True):
        with torch.no_grad():
            states = model.model(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0]
        torch.testing.assert_close(vector, states.mean(0), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(vectors[1], vectors[2], atol=1e-2)  # it hears the order
    assert semantic_similarity(encoder.encode(TEXTS[:1] * 4), 4) == pytest.approx(1)

    encoders._load("countdown").save(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "modules.json").is_file()
    torch.testing.assert_close(sentence_encoder(str(tmp_path / "saved")).encode(TEXTS), vectors)
    torch.testing.assert_close(sentence_encoder(str(base_folder("countdown"))).encode(TEXTS), vectors)


def test_an_encoder_without_all_its_weights_is_refused(tmp_path):
    """It would embed with random numbers; a head that it does not use may be there."""
    sentence_encoder(str(base_folder("rules")))  # untied: it has a head
    folder = shutil.copytree(base_folder("countdown"), tmp_path / "encoder")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="encoder .* lacks 1 weight that the model has: layers.0.mlp.up_proj.weight"):
        sentence_encoder(str(folder))


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "owner/name", "no such model", "/no/such/folder", ""])
def test_a_model_out_of_reach_is_one_sentence(name, monkeypatch):
    monkeypatch.setattr(encoders, "_cached", lambda repository: False)
    with pytest.raises(UserError) as refusal:
        sentence_encoder(name)
    assert str(refusal.value).startswith(f"encoder {name!r} is no folder and no model that this machine has")
    assert "\n" not in str(refusal.value) and "'bag-of-words'" in str(refusal.value)


def test_without_sentence_transformers_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(encoders, "_installed", lambda: False)
    monkeypatch.setattr(encoders, "_cached", lambda repository: True)
    assert sentence_encoder("auto").name == "bag-of-words"
    with pytest.raises(UserError, match=r"needs sentence-transformers: pip install 'psn-tutorial\[embeddings\]'"):
        sentence_encoder("countdown")


def test_the_module_itself_loads_no_sentence_transformers():
    import subprocess
    import sys

    code = "import sys, psn_tutorial.trainer; print('sentence_transformers' in sys.modules)"
    root = Path(encoders.__file__).parents[2]
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert shown.stdout.strip() == "False"
