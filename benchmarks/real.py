"""A pretrained model, SmolLM2-135M: sampling against transformers' generate, a GRPO step with LoRA against trl's.

Three comparisons on worded sums, float32:

    every answer has all its tokens   the end token is impossible for both
    answers end at different lengths  after every token the same chance to end, for both; nobody knows when
    a step                            every group learns, every answer has all its tokens, the same adapter for both

The floor multiplies what a naive program would: each prompt read whole, once for sampling and once per answer in an
update. What all prompts begin with alike, and what several answers share, psn_tutorial reads once: it can be below.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from clock import finish, interleave, options, show, start
from floor import Floor, Sizes, batch_options
from sampling import whole_distribution
from step import THEIRS as TRL
from step import Contrasted, has_trl, trl_steps

from psn_tutorial.config import TrainConfig
from psn_tutorial.jobs.policies import load_policy
from psn_tutorial.models.policy import Policy, asked, encode, end_tokens
from psn_tutorial.models.qlora import QLoRAConfig, adapted
from psn_tutorial.noise import stream
from psn_tutorial.rollout import sample
from psn_tutorial.tasks.math import Math
from psn_tutorial.trainer import Trainer

OURS, GENERATE, FLOOR = "psn_tutorial.rollout.sample", "transformers' generate, with logits", "matrix products alone"
STEP, NOISY = "psn_tutorial GRPO", "psn_tutorial PSN-GRPO, 4 draws"
REALTIME = "psn_tutorial PSN-GRPO, real-time sigma"
SMOLLM2 = Path(__file__).resolve().parents[1] / ".venv" / "models" / "smollm2-135m-instruct.gguf"
MICRO_BATCH = 16  # rollouts per forward and backward pass of a step, for both: trl's would not fit into 24 GB at once


class Sums:
    """The model, worded sums, and the prompts of one batch; the attributes are those of floor.Countdown."""

    def __init__(self, base: str, prompts: int, group: int, new: int, adapter: bool = False):
        self.task = Math(source="sums", style="line", examples=1, sum_steps=1, completion=new)
        self.policy = load_policy(base)
        if adapter:
            self.policy = Policy(adapted(self.policy.model.requires_grad_(False), QLoRAConfig()), self.policy.tokenizer)
        self.model, self.tokenizer = self.policy
        self.problems = self.task.problems("train")
        self.texts = asked(self.tokenizer, self.task, self.problems)
        self.prompts = encode(self.tokenizer, self.texts[:prompts])
        self.sizes = Sizes(prompts, group, self.prompts.ids.shape[1], new)

    @contextmanager
    def ending(self, chance: float) -> Iterator[None]:
        """Inside, after every token an answer ends with this chance, whoever asks the model."""
        ends = end_tokens(self.policy)

        def change(head: torch.nn.Module, inputs: tuple, logits: torch.Tensor) -> torch.Tensor:
            logits[..., ends] = -torch.inf
            if chance:
                logits[..., ends[0]] = logits.logsumexp(-1) + math.log(chance / (1 - chance))
            return logits

        core = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        hook = core.lm_head.register_forward_hook(change)
        try:
            yield
        finally:
            hook.remove()


def sampling(args, chance: float) -> dict:
    """Our sampler beside generate; answers end after 1 / ``chance`` tokens on average, or not at all."""
    shared = Sums(args.base, args.prompts, args.group, args.new if not chance else args.longest)
    sizes, generator, counted = shared.sizes, stream(0, "benchmark"), {OURS: [], GENERATE: []}
    rows = torch.arange(sizes.prompts).repeat_interleave(sizes.group)
    settings = whole_distribution(sizes.new, end_tokens(shared.policy), shared.tokenizer.pad_token_id)

    def ours():
        rollouts = sample(shared.policy, shared.prompts, sizes.group, sizes.new, generator)
        counted[OURS].append(int(rollouts.mask.sum()))

    @torch.no_grad()
    def theirs():
        ids, mask = shared.prompts.ids[rows], shared.prompts.mask[rows].long()
        out = shared.model.generate(ids, attention_mask=mask, generation_config=settings)
        answers = out.sequences[:, sizes.prompt :]
        ended = torch.isin(answers, torch.tensor(end_tokens(shared.policy)))
        counted[GENERATE].append(int((ended.cumsum(1) - ended.long() == 0).sum()))

    programs = {OURS: ours, GENERATE: theirs}
    if not chance:
        programs[FLOOR] = Floor(shared.model, sizes).sampling
    with shared.ending(chance):
        seconds = interleave(programs, args)
    title = f"Sampling {sizes}" + (f", {1 / chance:g} on average" if chance else "")
    goals = [(GENERATE, OURS, ">= 3")] if chance else [(GENERATE, OURS, ">= 1.5"), (OURS, FLOOR, "")]
    result = show(title, seconds, goals)
    for name, numbers in counted.items():
        counts = numbers[args.warmup : args.warmup + len(seconds[name])]
        result[f"tokens, {name}"] = mean = sum(counts) / len(counts)
        print(f"  {name}: {mean:.0f} tokens a call, {mean / result['seconds'][name]['median']:.0f} a second")
    return result


def steps(args, with_trl: bool) -> dict:
    """Our step beside trl's, on one adapter that neither moves."""
    shared = Sums(args.base, args.prompts, args.group, args.step_new, adapter=True)
    sizes, task = shared.sizes, Contrasted(shared.task)
    micro_batch = min(MICRO_BATCH, sizes.rows)
    common = {"task": "math", "prompts": sizes.prompts, "group": sizes.group, "lr": 1e-9, "micro_batch": micro_batch}
    noise = {"sigma": 0.03, "relative": True, "draws": 4}
    floor = Floor(shared.model.get_base_model(), sizes)

    def arithmetic():
        floor.sampling()
        floor.update(frozen=True)

    programs = {
        STEP: Trainer(TrainConfig(**common), shared.policy, task, shared.problems).step,
        NOISY: Trainer(TrainConfig(**common, **noise), shared.policy, task, shared.problems).step,
    }
    if args.encoder:
        direction = "policy_to_uniform"  # the other is infinite where a token, here the end, is impossible
        realtime = TrainConfig(**common, **noise, schedule="realtime", encoder=args.encoder, certainty=direction)
        programs[REALTIME] = Trainer(realtime, shared.policy, task, shared.problems).step
    programs[FLOOR] = arithmetic
    with shared.ending(0), trl_steps(shared, task, args, micro_batch) if with_trl else nullcontext() as trl:
        seconds = interleave({TRL: trl.step} | programs if with_trl else programs, args)
    goals = [(TRL, STEP, ">= 2"), (TRL, NOISY, "")] if with_trl else []
    goals += [(STEP, FLOOR, ""), (NOISY, STEP, "")]
    if args.encoder:
        goals += [(REALTIME, NOISY, "<= 1.03")]
    return show(f"A GRPO step with LoRA: {sizes}", seconds, goals)


def main(words: list[str] | None = None) -> list[dict]:
    parser = batch_options(options(__doc__, rounds=3))
    parser.set_defaults(prompts=8, group=8, warmup=1)
    parser.add_argument(
        "--base", default=str(SMOLLM2), help="a GGUF file, a checkpoint folder, a hub name (%(default)s)"
    )
    parser.add_argument("--new", type=int, default=160, help="tokens of an answer where none ends (%(default)s)")
    parser.add_argument("--mean", type=float, default=18, help="tokens of an answer where they end, on average ...")
    parser.add_argument("--longest", type=int, default=64, help="... and at most (%(default)s)")
    parser.add_argument("--step-new", type=int, default=40, help="tokens of an answer in a step (%(default)s)")
    parser.add_argument("--encoder", help="also a step with Variant II and this sentence encoder, all-MiniLM-L6-v2 say")
    parser.add_argument("--no-trl", action="store_true", help="leave trl out")
    args = parser.parse_args(words)
    start(args)
    if args.base == str(SMOLLM2) and not SMOLLM2.is_file():
        print("SmolLM2 is not here (`make test` fetches it): nothing is measured")
        return []
    results = [sampling(args, 0.0), sampling(args, 1 / args.mean), steps(args, not args.no_trl and has_trl())]
    finish(args, results)
    return results


if __name__ == "__main__":
    main()
