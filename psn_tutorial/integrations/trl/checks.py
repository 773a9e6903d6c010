"""What noise on TRL's rollouts cannot be combined with, each told in one sentence before the first step."""

import sys
from typing import Any

from transformers import GenerationConfig

from psn_tutorial.errors import UserError, check_choice
from psn_tutorial.integrations.trl.config import PSNConfig
from psn_tutorial.sites import filter_of

# What else transformers' ``generate`` does to a distribution, if the model's own generation settings say so: it takes
# from there what TRL leaves open. Each with the value at which it does nothing, beside None and 0.
SHAPING = {
    **dict.fromkeys(("min_p", "top_h", "epsilon_cutoff", "eta_cutoff", "no_repeat_ngram_size", "min_length")),
    **dict.fromkeys(("min_new_tokens", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "sequence_bias")),
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id", "exponential_decay_length_penalty")),
    **dict.fromkeys(("watermarking_config", "remove_invalid_values")),
    **dict.fromkeys(("typical_p", "guidance_scale", "encoder_repetition_penalty"), 1.0),
}


def check_arguments(model: Any, args: PSNConfig, named: dict[str, Any]) -> None:
    """Raise UserError for arguments of the trainer that cannot be; takes those that must be None out of ``named``."""
    for name in ("rollout_func", "tools", "environment_factory"):
        if named.pop(name, None):
            raise UserError(f"{name} must be None with noise: completions come from the noisy policy in one turn")
    if args.use_vllm and (named.get("peft_config") is not None or hasattr(model, "peft_config")):
        raise UserError(
            "use_vllm must be False with an adapter and noise: TRL sends vLLM the base merged with the adapter, or its "
            "4-bit codes"
        )
    if "unsloth" in sys.modules:
        raise UserError("unsloth must not be imported: its trainer ignores rollout_func, so there would be no noise")
    if args.cast_lm_head_to_fp32 and args.layers == "all" and filter_of(args.targets)("lm_head.weight"):
        raise UserError(f"cast_lm_head_to_fp32 must be False where the head has noise, got targets {args.targets!r}")


def check_sampling(settings: GenerationConfig) -> None:
    """Raise UserError where a model's own generation settings shape the distribution that is sampled."""
    for name, plain in SHAPING.items():
        value = getattr(settings, name, None)
        if value and value != plain:
            raise UserError(
                f"the model's generation_config must not set {name} with noise, for ratios of what is sampled, "
                f"got {value!r}"
            )


def check_shards(args: PSNConfig) -> None:
    """Raise UserError for what weights in shards do not allow: no process sees a whole one."""
    for name in ("use_vllm", "relative"):
        if getattr(args, name):
            raise UserError(f"{name} must be False where weights are in shards (FSDP, ZeRO-3), got True")
    check_choice("carrier (where weights are in shards)", args.carrier, ("auto", "lowrank"))
