"""The experiments that ``psn-tutorial compare`` runs, in three sizes and two on language models.

quick takes seconds (does everything work?), demo minutes, full has more seeds, for the record;
qlora trains our own small language model in 4 bits with an adapter, for an hour; qwen trains a pretrained one, for
hours, from the hub or from a GGUF file (``--base``).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from psn_tutorial.errors import UserError, suggest
from psn_tutorial.experiments.experiment import Arm, Experiment

RULES = Experiment(
    task="rules",
    question=(
        "A rule that the base policy rarely chooses must be kept through a whole answer. "
        "Which exploration ever finds such an answer, so that there is something to learn from?"
    ),
    arms={
        "grpo": Arm("GRPO"),
        "hot": Arm("GRPO, sampled at T = 2", {"sampling_temperature": 2.0}),
        "psn": Arm("PSN-GRPO", {"sigma": 0.8, "relative": True, "targets": "head", "draws": 16}),
    },
    common={
        "prompts": 16,
        "group": 16,
        "steps": 150,
        "lr": 3e-4,
        "eval_every": 10,
        "samples": 0,
    },
    seeds=(0, 1, 2),
    metrics=("success",),
)

COUNTDOWN = Experiment(
    task="countdown",
    question=(
        "The base policy finds solutions now and then, and training trades its variety for "
        "accuracy. Does weight noise keep more of the variety at the same accuracy?"
    ),
    arms={
        "grpo": Arm("GRPO"),
        "hot": Arm("GRPO, sampled at T = 1.3", {"sampling_temperature": 1.3}),
        "psn": Arm("PSN-GRPO", {"sigma": 0.2, "relative": True, "targets": "mlp", "draws": 4}),
    },
    common={
        "prompts": 32,
        "group": 16,
        "steps": 300,
        "lr": 1e-4,
        "eval_every": 75,
        "samples": 256,
        "eval_problems": 200,
    },
    metrics=("pass@1", "pass@16", "pass@256", "coverage", "family_coverage"),
    frontier=("pass@1", "pass@256"),
)


SUMS = Experiment(
    task="math",
    question=(
        "A 4-bit language model with an adapter, on worded sums that it solves now and then. "
        "Does noise beside its weights change what training makes of it?"
    ),
    arms={
        "grpo": Arm("GRPO"),
        "hot": Arm("GRPO, sampled at T = 1.3", {"sampling_temperature": 1.3}),
        "psn": Arm("PSN-GRPO", {"sigma": 0.03, "targets": "mlp", "draws": 4}),
    },
    common={
        "difficulty": {"source": "sums", "completion": 40},
        "lora_rank": 16,
        "four_bit": True,
        "prompts": 16,
        "group": 16,
        "steps": 100,
        "lr": 1e-3,
        "eval_every": 25,
        "samples": 32,
        "eval_problems": 100,
    },
    seeds=(0, 1, 2),
    metrics=("pass@1", "pass@8", "pass@32"),
    frontier=("pass@1", "pass@32"),
)


QWEN = Experiment(
    task="math",
    question=(
        "A pretrained Qwen of half a billion weights, in 4 bits with an adapter, on worded sums of two steps. "
        "What does training make of its answers, and does weight noise change that?"
    ),
    arms={
        "grpo": Arm("GRPO"),
        "hot": Arm("GRPO, sampled at T = 1.2", {"sampling_temperature": 1.2}),
        "psn": Arm("PSN-GRPO", {"sigma": 0.1, "relative": True, "targets": "mlp", "draws": 4}),
    },
    common={
        "base": "qwen2.5-coder-0.5b-instruct",
        # one line per answer: a CPU cannot afford long ones
        "difficulty": {"source": "sums", "style": "line", "examples": 1, "completion": 40, "sum_steps": 2},
        "lora_rank": 16,
        "four_bit": True,
        "compute": "bfloat16",
        "prompts": 8,
        "group": 8,
        "steps": 32,
        "lr": 5e-5,
        "micro_batch": 32,
        "eval_every": 16,
        "save_every": 4,
        "samples": 16,
        "eval_problems": 40,
        "batch": 320,
        "transcripts": 8,
    },
    seeds=(0, 1),
    metrics=("pass@1", "pass@4", "pass@16"),
    frontier=("pass@1", "pass@16"),
)


def _smaller(experiment: Experiment, common: Mapping[str, Any], **changes: Any) -> Experiment:
    return replace(experiment, common={**experiment.common, **common}, **changes)


PRESETS: dict[str, dict[str, Experiment]] = {
    "quick": {
        "rules": _smaller(
            RULES,
            {"prompts": 4, "group": 16, "steps": 6, "eval_every": 3, "eval_problems": 8},
            seeds=(0, 1),
        ),
        "countdown": _smaller(
            COUNTDOWN,
            {"prompts": 4, "group": 8, "steps": 4, "eval_every": 2, "samples": 16, "eval_problems": 12},
            metrics=("pass@1", "pass@16", "coverage", "family_coverage"),
            frontier=("pass@1", "pass@16"),
        ),
    },
    "demo": {"rules": RULES, "countdown": COUNTDOWN},
    "full": {
        "rules": replace(RULES, seeds=(0, 1, 2, 3, 4)),
        "countdown": replace(COUNTDOWN, seeds=(0, 1, 2)),
    },
    "qlora": {"sums": SUMS},
    "qwen": {"qwen": QWEN},
}


def preset(name: str) -> dict[str, Experiment]:
    """The experiments of a preset. Raises UserError for an unknown one."""
    if name not in PRESETS:
        allowed = ", ".join(PRESETS)
        raise UserError(f"preset must be one of {allowed}, got {name!r}{suggest(name, PRESETS)}")
    return PRESETS[name]
