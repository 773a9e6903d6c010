"""What PSN-GRPO inside TRL refuses, each in one sentence."""

import sys

import pytest

pytest.importorskip("trl")

from trl import GRPOConfig  # noqa: E402

from psn_tutorial.errors import UserError  # noqa: E402
from psn_tutorial.integrations.trl import PSNGRPOTrainer  # noqa: E402
from tests.integrations.trainers import reward  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of TRL, peft and transformers among each other


@pytest.mark.parametrize(
    "settings,sentence",
    [
        ({"loss_type": "vespo"}, "loss_type must be one of 'grpo', 'dapo'.*got 'vespo'"),
        ({"importance_sampling_level": "sequence"}, "correction must be 'sequence' or 'none' with"),
        ({"top_p": 0.9}, "top_p must be 1.0 with noise"),
        ({"top_k": 50}, "top_k must be 0 with noise"),
        ({"min_p": 0.1}, "min_p must be None with noise"),
        ({"repetition_penalty": 1.1}, "repetition_penalty must be 1.0 with noise"),
        ({"generation_kwargs": {"top_p": 0.5}}, "generation_kwargs must be None with noise"),
        ({"use_transformers_continuous_batching": True}, "use_transformers_continuous_batching must be False"),
        ({"draws": 3}, "draws must divide the 8 rollouts"),
        ({"draws": 4, "spread": "per_group"}, "draws must divide the 2 prompts"),
        ({"draws": 1, "antithetic": True}, "draws must be even when antithetic, got 1"),
        ({"sigma": -1.0}, "sigma must be"),
        ({"cap": 0.0}, "cap must be"),
        ({"schedule": "cosine"}, "schedule must be one of"),
        ({"correction": "tokens"}, "correction must be one of"),
        ({"targets": "experts"}, "targets 'experts' matches no parameter"),
        (
            {"cast_lm_head_to_fp32": True, "targets": "all"},
            "cast_lm_head_to_fp32 must be False where the head has noise",
        ),
        ({"use_vllm": True, "carrier": "lowrank"}, "carrier must be 'weights' with vLLM"),
    ],
    ids=lambda x: "" if isinstance(x, str) else str(x),
)
def test_what_cannot_be_is_refused_in_one_sentence(make, settings, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        make(**({"sigma": 0.1} | settings))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_arguments_that_cannot_be_are_refused(make, monkeypatch):
    from peft import LoraConfig, get_peft_model

    for name, value in (("rollout_func", print), ("tools", [print]), ("environment_factory", print)):
        with pytest.raises(UserError, match=f"{name} must be None with noise"):
            make(named={name: value})
    lora = LoraConfig(r=2, target_modules=["up_proj"], task_type="CAUSAL_LM")
    with pytest.raises(UserError, match="use_vllm must be False with an adapter"):
        make(named={"peft_config": lora}, use_vllm=True)
    with pytest.raises(UserError, match="use_vllm must be False with an adapter"):
        make(model=get_peft_model(make(sigma=0.0).model, lora), use_vllm=True)
    with pytest.raises(ValueError, match="lm_head"):
        make(named={"peft_config": LoraConfig(r=2, target_modules=["lm_head"], task_type="CAUSAL_LM")})
    with pytest.raises(UserError, match="args must be a PSNConfig, got GRPOConfig"):
        PSNGRPOTrainer("model", reward, GRPOConfig(use_cpu=True, bf16=False))
    model = make(sigma=0.0).model
    model.generation_config.min_p = 0.1
    with pytest.raises(UserError, match="the model's generation_config must not set min_p with noise.*got 0.1"):
        make(model=model, sigma=0.1)
    monkeypatch.setitem(sys.modules, "unsloth", object())
    with pytest.raises(UserError, match="unsloth must not be imported"):
        make()
    make(sigma=0.0)  # what TRL can do, it still does
