"""Small random models, made once: nothing here is trained and nothing is downloaded."""

import pytest
import torch
from hypothesis import HealthCheck, settings

from psn_tutorial.models.bases import TinyConfig
from psn_tutorial.models.loading import quiet
from psn_tutorial.models.tiny import build_model, build_text_tokenizer, build_tokenizer
from psn_tutorial.tasks import get_task

# A loaded machine takes its time over an example, and that is no fault of the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Bitwise comparisons want one thread; so do several test processes on one machine."""
    torch.set_num_threads(1)


@pytest.fixture
def policy():
    """A function (task name, sizes, difficulty) -> (task, tokenizer, model); ``scale`` peaks the distributions."""

    def make(name="rules", scale=8.0, sizes=None, **difficulty):
        task = get_task(name, **difficulty)
        tokenizer = build_tokenizer(task.words)
        config = TinyConfig(hidden=16, ff=32, heads=2, kv_heads=2, **(sizes or {}))
        model = build_model(config, tokenizer, seed=1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" not in name:
                    parameter.mul_(scale)
        return task, tokenizer, model

    return make


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A function architecture -> the folder of a small random checkpoint, as a hub model would lie on the disk."""
    folders = {}

    def make(architecture="qwen3"):
        if architecture not in folders:
            folder = folders[architecture] = tmp_path_factory.mktemp(architecture)
            tokenizer = build_tokenizer([str(number) for number in range(61)])
            tied = architecture == "qwen3"
            model = build_model(TinyConfig(architecture, 64, heads=2, kv_heads=1, ff=128, tied=tied), tokenizer)
            with quiet():
                model.save_pretrained(folder)
                tokenizer.save_pretrained(folder)
        return folders[architecture]

    return make


@pytest.fixture(scope="session")
def language_model(tmp_path_factory):
    """The folder of a small random Qwen2 with Qwen's own tokenizer class and chat template, as the hub has them."""
    folder = tmp_path_factory.mktemp("language-model")
    texts = ["Anna has 12 apples and buys 3 more. How many apples has she now?", "The answer is \\boxed{15}."] * 20
    tokenizer = build_text_tokenizer(texts)
    config = TinyConfig("qwen2", hidden=64, ff=128, heads=2, kv_heads=1, positions=512)
    with quiet():
        build_model(config, tokenizer).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder
