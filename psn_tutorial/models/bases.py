"""The shipped base policies: the settings they were made with, and where they lie.

Settings only, without torch; :mod:`psn_tutorial.models.tiny` builds the models and
:mod:`psn_tutorial.jobs.pretraining` trains them.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psn_tutorial.errors import UserError, check_choice, check_count, check_positive, check_range, check_seed
from psn_tutorial.settings import option
from psn_tutorial.tasks.files import DATA
from psn_tutorial.tasks.registry import TASKS, check_task

ARCHITECTURES = ("qwen2", "qwen3")
LARGEST = 2**14  # of any size: no model is wider or deeper, and to try would take forever


@dataclass(frozen=True)
class TinyConfig:
    """Sizes of a tiny Qwen. ``tied`` shares the embedding with the unembedding, as the small Qwens do.

    The default is Qwen3: for the type "qwen2" transformers 5 makes AutoTokenizer ignore the tokenizer that a checkpoint
    brings and use Qwen's own byte-level one, which splits numbers into digits.
    """

    architecture: str = option("qwen3", "which Qwen", ARCHITECTURES)
    hidden: int = option(64, "width of the residual stream")
    layers: int = option(2, "decoder layers")
    heads: int = option(4, "attention heads; hidden / heads must be even")
    kv_heads: int = option(4, "heads of keys and values")
    ff: int = option(256, "width inside the MLPs")
    tied: bool = option(True, "one tensor for embedding and unembedding")
    positions: int = option(64, "longest sequence")

    def __post_init__(self):
        check_choice("architecture", self.architecture, ARCHITECTURES)
        for name in ("hidden", "layers", "heads", "kv_heads", "ff", "positions"):
            check_count(name, getattr(self, name))
            check_range(name, getattr(self, name), high=LARGEST, whole=True)
        if self.hidden % self.heads or self.heads % self.kv_heads:
            raise UserError(
                "hidden must be a multiple of heads and heads of kv_heads, "
                f"got {self.hidden}, {self.heads} and {self.kv_heads}"
            )
        if self.hidden // self.heads % 2:
            raise UserError(f"hidden / heads must be even, got {self.hidden} / {self.heads}")


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of a base model."""

    task: str = option("countdown", "what to demonstrate", known=TASKS)
    difficulty: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "fields of the task that differ from its default"}
    )
    model: TinyConfig = TinyConfig()
    problems: int = option(20_000, "problems that the demonstrations are drawn from")
    demonstrations: int = option(100_000, "texts to imitate")
    steps: int = option(3000, "optimiser steps")
    batch: int = option(256, "texts per step")
    lr: float = option(3e-3, "peak learning rate of AdamW; a cosine takes it to 0")
    warmup: int = option(100, "steps to the peak")
    seed: int = option(0, "seed of weights, problems and order")

    def __post_init__(self):
        check_task(self.task)
        for name in ("problems", "demonstrations", "steps", "batch"):
            check_count(name, getattr(self, name))
        check_count("warmup", self.warmup, low=0)
        check_seed(self.seed)
        check_positive("lr", self.lr)


# The shipped bases. Countdown sees few problems often: a base that has read more solves them all within 256 samples and
# leaves nothing to explore. The rule base is untied, as the large Qwens are, so that noise can act on the unembedding
# alone. The language model for worded sums can work an answer out, but more often gives one at once, which is a guess.
BASES = {
    "countdown": PretrainConfig("countdown", problems=7000, demonstrations=7000, steps=1500),
    "rules": PretrainConfig("rules", model=TinyConfig(tied=False), problems=50_000, demonstrations=50_000, steps=2500),
    "chain": PretrainConfig(
        "chain", model=TinyConfig(hidden=32, ff=128, tied=False), problems=1, demonstrations=50_000, steps=300
    ),
    "sums": PretrainConfig(
        "math",
        difficulty={"source": "sums", "completion": 40, "worked": 0.4},
        model=TinyConfig("qwen2", hidden=128, heads=4, kv_heads=2, ff=384, positions=128),
        problems=40_000,
        demonstrations=40_000,
        steps=1000,
        batch=64,
        warmup=50,
    ),
}


def base_folder(name: str) -> Path:
    """The shipped base policy of a task with words of its own, or "sums": a small language model for worded sums.

    Raises UserError when it is not there.
    """
    folder = DATA / "bases" / name
    if name not in BASES:
        raise UserError(
            f"{name} has no shipped base policy: give a language model, "
            "such as --base qwen2.5-0.5b-instruct --lora-rank 16"
        )
    if not folder.is_dir():
        raise UserError(
            f"the shipped base policy of {name} is not beside the package; make one with "
            f"`psn-tutorial pretrain --task {BASES[name].task} --out my-base` and give it as --base"
        )
    return folder
