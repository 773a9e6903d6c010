"""A whole GRPO step: psn_tutorial against trl's GRPOTrainer, and against the arithmetic alone.

The same policy, problems, groups, completion length, verifier and loss for both; temperature 1, no KL, one update per
batch, float32, nothing written to disk, a learning rate that leaves the policy as it is. trl drives: between two of its
steps the others take theirs, so that one run measures all of them side by side.

psn_tutorial leaves rollouts without advantage out of the update, trl does not. So there are two rewards: "every group
learns" gives each group both rewards and therefore the same update to everybody; "the task's own" is a real batch,
where a part of the groups has no contrast.
"""

import tempfile
import zlib
from dataclasses import dataclass, replace
from typing import Any

from clock import CLOCKS, Seconds, finish, interleave, options, show, start
from floor import Countdown, Floor, Sizes, batch_options

from psn_tutorial.config import TrainConfig
from psn_tutorial.trainer import Trainer

OURS, NOISY, FLOOR = "psn_tutorial GRPO", "psn_tutorial PSN-GRPO, 1 draw", "matrix products alone"
THEIRS = "trl GRPOTrainer"
REWARDS = {"every group learns": True, "the task's own": False}


@dataclass(frozen=True)
class Contrasted:
    """A task whose verifier does its work, and then half of the answers count as right whatever they are."""

    task: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def verify(self, response: str, problem: Any) -> Any:
        return replace(self.task.verify(response, problem), correct=zlib.crc32(response.encode()) % 2 == 0)

    def verify_many(self, responses: Any, problems: Any) -> list[Any]:
        return [self.verify(response, problem) for response, problem in zip(responses, problems, strict=True)]


def our_step(sizes: Sizes, contrasted: bool, sigma: float):
    """One step of our trainer, as a program."""
    shared = Countdown(sizes)
    config = TrainConfig(prompts=sizes.prompts, group=sizes.group, lr=1e-9, sigma=sigma, relative=True)
    task = Contrasted(shared.task) if contrasted else shared.task
    return Trainer(config, shared.policy, task, shared.problems).step


def against_trl(shared: Any, task: Any, programs: dict, args, micro_batch: int = 0) -> tuple[Seconds, dict]:
    """Seconds of trl's steps and of ``programs``, which run between them; and what trl logged last.

    shared: a Countdown, or what else has its attributes; task: its own, or Contrasted; micro_batch: rollouts per
    forward and backward pass, 0 for all at once.
    """
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    sizes, now = shared.sizes, CLOCKS[args.clock]
    micro_batch = micro_batch or sizes.rows
    problems = dict(zip(shared.texts, shared.problems, strict=True))

    def reward(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        return [float(task.verify(text, problems[p]).correct) for p, text in zip(prompts, completions, strict=True)]

    seconds: Seconds = {name: [] for name in (THEIRS, *programs)}

    class Between(TrainerCallback):
        """Runs after each of trl's steps, outside of its time."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.begin = now()

        def on_step_end(self, arguments: Any, state: Any, *_: Any, **__: Any) -> None:
            times = {THEIRS: now() - self.begin}
            for name, program in programs.items():
                begin = now()
                program()
                times[name] = now() - begin
            if state.global_step > args.warmup:
                for name, value in times.items():
                    seconds[name].append(value)
            self.begin = now()

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            max_steps=args.warmup + args.rounds,
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=sizes.rows // micro_batch,
            num_generations=sizes.group,
            max_completion_length=sizes.new,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            num_iterations=1,
            beta=0.0,
            loss_type="grpo",
            learning_rate=1e-9,
            lr_scheduler_type="constant",
            optim="adamw_torch_fused",
            max_grad_norm=1.0,
            weight_decay=0.0,
            activation_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = GRPOTrainer(
            shared.model,
            reward,
            config,
            Dataset.from_dict({"prompt": list(problems)}),
            processing_class=shared.tokenizer,
            callbacks=[Between()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return seconds, trainer.state.log_history[-1]


def has_trl() -> bool:
    try:
        import trl  # noqa: F401
    except ImportError:
        print("trl is not installed (`make bench` installs it): measured without it")
        return False
    return True


def main(words: list[str] | None = None) -> list[dict]:
    parser = batch_options(options(__doc__))
    parser.add_argument("--no-trl", action="store_true", help="leave trl out")
    args = parser.parse_args(words)
    start(args)
    sizes, results = Sizes(args.prompts, args.group), []
    floor = Floor(Countdown(sizes).model, sizes)

    def arithmetic() -> None:
        floor.sampling()
        floor.update()

    with_trl = not args.no_trl and has_trl()
    for name, contrasted in REWARDS.items():
        records = {}

        def recorded(label: str, step: Any, records: dict = records) -> Any:
            return lambda: records.__setitem__(label, step())

        programs = {
            OURS: recorded(OURS, our_step(sizes, contrasted, 0.0)),
            NOISY: recorded(NOISY, our_step(sizes, contrasted, 0.2)),
            FLOOR: arithmetic,
        }
        logged: dict = {}
        if with_trl:
            shared = Countdown(sizes)
            task = Contrasted(shared.task) if contrasted else shared.task
            seconds, logged = against_trl(shared, task, programs, args)
        else:
            seconds = interleave(programs, args)
        goals = [(THEIRS, OURS, ">= 2"), (THEIRS, NOISY, "")] if with_trl else []
        goals += [(OURS, FLOOR, "<= 1.5" if contrasted else ""), (NOISY, OURS, "")]
        result = show(f"A GRPO step, reward: {name}: {sizes}", seconds, goals)
        result["rollouts"] = {
            label: {"tokens": record["tokens"], "zero_contrast": record["zero_contrast"]}
            for label, record in records.items()
        }
        if logged:
            result["rollouts"][THEIRS] = {
                "tokens": round(logged["completions/mean_length"] * sizes.rows),
                "zero_contrast": logged["frac_reward_zero_std"],
            }
        for label, value in result["rollouts"].items():
            print(f"  last batch of {label}: {value['tokens']} tokens, zero contrast {value['zero_contrast']:.2f}")
        results.append(result)
    finish(args, results)
    return results


if __name__ == "__main__":
    main()
