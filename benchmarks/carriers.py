"""A PSN-GRPO step on a 4-bit model against a plain one, by the carrier of its noise; memory and KL of each carrier.

A Qwen3 with random weights in NF4, with a LoRA adapter and bfloat16 arithmetic; about 30M parameters unless the flags
say otherwise. One step is sampling, reading, backward pass and optimiser, each group with both rewards. The carriers
have one absolute sigma, and the low-rank one also the relative sigma that comes to as much; the KL to the clean policy
is measured draw by draw.
"""

import argparse
import re
import tempfile
from pathlib import Path

from clock import finish, interleave, options, show, start
from floor import batch_options
from step import Contrasted
from torch import Tensor, nn

from psn_tutorial.carriers import carried, linear_layers
from psn_tutorial.config import TrainConfig
from psn_tutorial.evaluation.calibrate import sampler_kl
from psn_tutorial.evaluation.intervals import seed_interval
from psn_tutorial.jobs.policies import save_policy
from psn_tutorial.models.bases import TinyConfig
from psn_tutorial.models.policy import Policy, encode
from psn_tutorial.models.qlora import QLoRAConfig, load_qlora
from psn_tutorial.models.tiny import build_model, build_tokenizer
from psn_tutorial.noise import NoiseConfig
from psn_tutorial.preflight.budget import Shape
from psn_tutorial.tasks import get_task, load_split
from psn_tutorial.trainer import Trainer

PLAIN = "plain GRPO"
SIGMA, RELATIVE = 0.002, 0.1  # absolute, as in the paper, and as a multiple of the random weights' RMS, 0.02
CARRIERS = ("lowrank", "dense")


def four_bit_model(args: argparse.Namespace, words: tuple[str, ...]):
    """A random Qwen3 of the wanted sizes, saved and loaded again in NF4: model with adapter, tokenizer."""
    filler = [f"word{number}" for number in range(args.vocabulary - len(words))]
    tokenizer = build_tokenizer([*words, *filler])
    heads = max(1, args.hidden // 64)
    sizes = TinyConfig(hidden=args.hidden, layers=args.layers, heads=heads, kv_heads=max(1, heads // 2), ff=args.ff)
    with tempfile.TemporaryDirectory() as folder:
        save_policy(Policy(build_model(sizes, tokenizer), tokenizer), Path(folder) / "base")
        return load_qlora(QLoRAConfig(str(Path(folder) / "base")))


def held_bytes(model: nn.Module, targets: str) -> int:
    """What the noise of the carrier that is on holds in memory: the tensors its forward passes close over."""
    cells = [
        cell.cell_contents for layer in linear_layers(model, targets).values() for cell in layer.forward.__closure__
    ]
    return sum(x.numel() * x.element_size() for x in cells if isinstance(x, Tensor))


def main(words: list[str] | None = None) -> list[dict]:
    parser = batch_options(options(__doc__, rounds=5))
    parser.set_defaults(prompts=4, group=8, warmup=1)
    for name, size in (("hidden", 512), ("layers", 8), ("ff", 1536), ("vocabulary", 8000), ("new", 32)):
        parser.add_argument(f"--{name}", type=int, default=size, help="(%(default)s)")
    parser.add_argument("--draws", type=int, nargs="+", default=[1, 4], help="(%(default)s)")
    parser.add_argument("--kl-draws", type=int, default=8, help="draws whose KL is measured (%(default)s)")
    args = parser.parse_args(words)
    start(args)
    task, problems = get_task("rules"), load_split("rules", "train")
    model, tokenizer = four_bit_model(args, task.words)

    def trainer(**noise) -> Trainer:
        config = TrainConfig(task="rules", prompts=args.prompts, group=args.group, lr=1e-9, **noise)
        made = Trainer(config, Policy(model, tokenizer), Contrasted(task), problems)
        made.max_tokens = args.new
        return made

    noisy = {
        f"{carrier}, {draws} draws": trainer(sigma=SIGMA, carrier=carrier, draws=draws)
        for carrier in CARRIERS
        for draws in args.draws
    }
    noisy["lowrank, relative, 1 draws"] = trainer(sigma=RELATIVE, relative=True, carrier="lowrank")
    programs = {PLAIN: trainer().step, **{name: made.step for name, made in noisy.items()}}
    ratios = [(name, PLAIN, "<= 1.05" if re.fullmatch("lowrank.* 1 draws", name) else "") for name in noisy]
    shape = Shape.of(model.config)
    weights = shape.linear_weights + shape.other_weights
    rollouts = f"{args.prompts} x {args.group} rollouts of {args.new} tokens"
    title = f"A step of a 4-bit model of {weights / 1e6:.1f}M weights: {rollouts}"
    result = show(title, interleave(programs, args), ratios)

    prompts = encode(tokenizer, [task.prompt(problem) for problem in problems[: args.prompts]])
    result["carriers"] = {}
    for name, made in noisy.items():
        count, noise = made.config.draws, NoiseConfig.of(made.config, made.config.sigma)
        with carried(model, noise, range(count)):
            held = held_bytes(model, noise.targets)
        result["carriers"][name] = {"bytes": held}
        print(f"  {name}: the noise holds {held / 1e6:.2f} MB")
    for carrier in CARRIERS:
        noise = (NoiseConfig(SIGMA, seed=seed, carrier=carrier) for seed in range(args.kl_draws))
        kl = seed_interval([sampler_kl(Policy(model, tokenizer), prompts, args.new, one, draws=1) for one in noise])
        result["carriers"][f"{carrier}, KL"] = {"value": kl.value, "low": kl.low, "high": kl.high}
        print(
            f"  {carrier}: KL at sigma {SIGMA:g}: {kl.value:.2e} [{kl.low:.2e}, {kl.high:.2e}]"
            f" nats per token, {args.kl_draws} draws"
        )
    finish(args, [result])
    return [result]


if __name__ == "__main__":
    main()
