"""A whole GRPO step: psn_tutorial against trl's GRPOTrainer, and against the arithmetic alone.

The same policy, problems, groups, completion length, verifier and loss for both; temperature 1, no KL, one update per
batch, float32, nothing written to disk, a learning rate that leaves the policy as it is. trl's train() runs in a thread
that waits after each of its steps, so that one run measures all of them side by side.

psn_tutorial leaves rollouts without advantage out of the update, trl does not. So there are two rewards: "every group
learns" gives each group both rewards and therefore the same update to everybody; "the task's own" is a real batch,
where a part of the groups has no contrast.
"""

import tempfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from clock import finish, interleave, options, show, start
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


class Stepped:
    """A trainer of transformers as a program: each call of ``step`` lets its train() take one step.

    train() runs in a thread of its own, which works while ``step`` waits for it, and waits at all other times. What it
    does between two steps counts with the later one.
    """

    def __init__(self, trainer: Any):
        from transformers import TrainerCallback

        self.trainer, self.error, self.closed = trainer, None, False
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)

        class Pauses(TrainerCallback):
            def on_train_begin(_, args: Any, state: Any, control: Any, **__: Any) -> None:
                self.pause(control)

            on_step_end = on_train_begin

        trainer.add_callback(Pauses())
        self.thread = threading.Thread(target=self.train, daemon=True)
        self.thread.start()
        self.wait()

    def train(self) -> None:
        try:
            self.trainer.train()
        except BaseException as error:  # told by the thread that waits
            self.error = error
            self.done.release()

    def pause(self, control: Any) -> None:
        self.done.release()
        self.go.acquire()
        control.should_training_stop |= self.closed

    def wait(self) -> None:
        self.done.acquire()
        if self.error:
            raise self.error

    def step(self) -> None:
        self.go.release()
        self.wait()

    def close(self) -> None:
        """End the training; ``trainer.state.log_history`` then ends with what it logged last."""
        self.closed = True
        self.go.release()
        self.thread.join()


@contextmanager
def trl_steps(shared: Any, task: Any, args: Any, micro_batch: int = 0, noise: dict | None = None) -> Iterator[Stepped]:
    """trl's trainer on the model of ``shared``, or ours inside trl where there is ``noise`` (settings of PSNConfig).

    shared: a Countdown, or what else has its attributes; task: its own, or Contrasted; micro_batch: rollouts per
    forward and backward pass, 0 for all at once.
    """
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    from psn_tutorial.integrations.trl import PSNConfig, PSNGRPOTrainer

    sizes = shared.sizes
    micro_batch = micro_batch or sizes.rows
    problems = dict(zip(shared.texts, shared.problems, strict=True))

    def reward(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        return [float(task.verify(text, problems[p]).correct) for p, text in zip(prompts, completions, strict=True)]

    with tempfile.TemporaryDirectory() as folder:
        settings = dict(
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
            use_cpu=shared.model.device.type == "cpu",
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = (PSNGRPOTrainer if noise else GRPOTrainer)(
            shared.model,
            reward,
            PSNConfig(**settings, **noise) if noise else GRPOConfig(**settings),
            Dataset.from_dict({"prompt": list(problems)}),
            processing_class=shared.tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        stepped = Stepped(trainer)
        try:
            yield stepped
        finally:
            stepped.close()


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
        shared = Countdown(sizes)
        task = Contrasted(shared.task) if contrasted else shared.task
        with trl_steps(shared, task, args) if with_trl else nullcontext() as trl:
            seconds = interleave({THEIRS: trl.step} | programs if with_trl else programs, args)
        goals = [(THEIRS, OURS, ">= 2"), (THEIRS, NOISY, "")] if with_trl else []
        goals += [(OURS, FLOOR, "<= 1.5" if contrasted else ""), (NOISY, OURS, "")]
        result = show(f"A GRPO step, reward: {name}: {sizes}", seconds, goals)
        result["rollouts"] = {
            label: {"tokens": record["tokens"], "zero_contrast": record["zero_contrast"]}
            for label, record in records.items()
        }
        if with_trl:
            logged = trl.trainer.state.log_history[-1]
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
