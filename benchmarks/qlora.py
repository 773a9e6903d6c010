"""A QLoRA step at a model's real shape, with random weights: GRPO against PSN-GRPO, by part, with its peak memory.

On a GPU by default the shapes of Qwen2.5-0.5B and Qwen2.5-1.5B, one prompt with 8 rollouts of 1024 tokens. Random
weights hardly ever end an answer, and each group has both rewards: a step is as dear as the longest of a real run.
Beside the measured peak stands what psn_tutorial.preflight.budget says. Without a GPU a tiny shape shows that it works.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from clock import finish, interleave, options, show, start

from psn_tutorial.config import TrainConfig
from psn_tutorial.jobs.policies import save_policy
from psn_tutorial.models.policy import Policy
from psn_tutorial.models.qlora import COMPUTE, QLoRAConfig, load_qlora
from psn_tutorial.models.tiny import CLASSES, build_tokenizer
from psn_tutorial.preflight.budget import GIB, SHAPES, Load, Shape, memory
from psn_tutorial.tasks.base import Verdict
from psn_tutorial.trainer import Trainer

SHAPES = {**SHAPES, "tiny": Shape(64, 2, 2, 1, 32, 128, 600, biases=True)}
PLAIN, NOISY = "GRPO", "PSN-GRPO, low rank, 1 draw"


class HalfRight:
    """A task of prompts without sense whose every other answer is right, whatever it says."""

    ends = True
    words = [f"word{number}" for number in range(64)]  # of a prompt

    def __init__(self, new: int):
        self.new = new

    def prompt(self, problem):
        return " ".join(self.words)

    def messages(self, problem):
        return None

    def max_tokens(self, problem):
        return self.new

    def verify_many(self, responses, problems):
        return [Verdict(number % 2 == 0, "") for number in range(len(responses))]


def random_model(shape: Shape, compute: str, device: str):
    """A Qwen of this shape with random weights, written once and loaded in NF4; a tokenizer with a word per token."""
    tokenizer = build_tokenizer([f"word{number}" for number in range(shape.vocabulary - 3)])
    settings, architecture = CLASSES["qwen3" if shape.head_norms else "qwen2"]
    torch.manual_seed(0)
    model = architecture(
        settings(
            vocab_size=shape.vocabulary,
            hidden_size=shape.hidden,
            intermediate_size=shape.ff,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            tie_word_embeddings=shape.tied,
            max_position_embeddings=32_768,
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        save_policy(Policy(model.to(COMPUTE[compute]), tokenizer), Path(folder) / "base")
        return load_qlora(QLoRAConfig(str(Path(folder) / "base"), compute=compute), device)[0], tokenizer


def measured(name: str, args: argparse.Namespace) -> dict:
    """Steps of one shape: times, parts, tokens per second, peak."""
    shape, cuda = SHAPES[name], torch.cuda.is_available()
    model, tokenizer = random_model(shape, args.compute, "cuda" if cuda else "cpu")
    task, records = HalfRight(args.new), {PLAIN: [], NOISY: []}

    def program(label: str, sigma: float):
        config = TrainConfig(
            task="math",
            prompts=args.prompts,
            group=args.group,
            lr=1e-9,
            sigma=sigma,
            recompute=True,
            micro_batch=args.micro_batch,
        )
        trainer = Trainer(config, Policy(model, tokenizer), task, range(args.prompts))
        return lambda: records[label].append(trainer.step())

    programs = {PLAIN: program(PLAIN, 0.0), NOISY: program(NOISY, args.sigma)}
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    rollouts = args.prompts * args.group
    title = f"{name}: {rollouts} rollouts of {args.new} tokens, micro-batches of {args.micro_batch}"
    result = show(title, interleave(programs, args), [(NOISY, PLAIN, "<= 1.02 on a GPU" if cuda else "")])
    for label, made in records.items():
        made = made[args.warmup :]  # as of the times above
        parts = {part: statistics.median(r[f"seconds_{part}"] for r in made) for part in ("sample", "verify", "update")}
        speed = statistics.median(r["tokens"] / r["seconds"] for r in made)
        result[label] = {"parts": parts, "tokens_per_second": speed}
        words = ", ".join(f"{part} {seconds:.2f} s" for part, seconds in parts.items())
        print(f"  {label}: {words}; {speed:.0f} tokens/s")
    wide = 2 if args.compute == "bfloat16" else 4
    load = Load(rollouts, len(task.words), args.new, args.micro_batch, bytes=wide)
    result["budget"] = memory(shape, load)["total"]
    result["peak"] = torch.cuda.max_memory_allocated() if cuda else None
    # On a CPU the resident memory tells nothing of a card: there oneDNN keeps a second copy of the head.
    peak = f"{result['peak'] / GIB:.2f} GB" if cuda else "only measured on a GPU"
    print(f"  peak memory: {peak}; the budget says {result['budget'] / GIB:.2f} GB")
    return result


def main(words: list[str] | None = None) -> list[dict]:
    parser = options(__doc__, rounds=3)
    parser.set_defaults(warmup=1)
    usual = ["qwen2.5-0.5b-instruct", "qwen2.5-1.5b"] if torch.cuda.is_available() else ["tiny"]
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=usual, help="(%(default)s)")
    parser.add_argument("--compute", choices=COMPUTE, default="bfloat16", help="(%(default)s)")
    for name, size in (("prompts", 1), ("group", 8), ("micro-batch", 1), ("new", 1024 if usual[0] != "tiny" else 64)):
        parser.add_argument(f"--{name}", type=int, default=size, help="(%(default)s)")
    parser.add_argument("--sigma", type=float, default=0.004, help="(%(default)s)")
    args = parser.parse_args(words)
    start(args)
    results = [measured(name, args) for name in args.models]
    finish(args, results)
    return results


if __name__ == "__main__":
    main()
