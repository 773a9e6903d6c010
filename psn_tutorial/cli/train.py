"""psn-tutorial train: train one policy and evaluate it."""

import argparse
import sys
from pathlib import Path

from psn_tutorial.cli.flags import add_flags, from_flags
from psn_tutorial.cli.output import command_line, folder_part, print_summary, resumable
from psn_tutorial.cli.parser import NAME, Parser, only
from psn_tutorial.config import RunConfig, check_effects
from psn_tutorial.errors import UserError, suggest
from psn_tutorial.experiments.presets import preset

# heading of --help -> the settings under it
HEADINGS = {
    "the task": ("task", "difficulty", "base", "train_file", "seed"),
    "the model": ("lora_rank", "lora_alpha", "four_bit", "compute", "device"),
    "the batch": ("steps", "prompts", "group", "temperature", "updates", "micro_batch", "recompute"),
    "exploration: parameter-space, action-space or prompt-space noise": (
        "sigma",
        "targets",
        "layers",
        "relative",
        "draws",
        "spread",
        "antithetic",
        "carrier",
        "noise_rank",
        "sampling_temperature",
        "prefix_words",
    ),
    "how sigma moves": (
        "schedule",
        "sigma_end",
        "sigma_steps",
        "sigma_shape",
        "kl_target",
        "kl_tolerance",
        "kl_factor",
        "realtime_target",
        "realtime_mix",
        "realtime_factor",
        "similarity_scale",
        "probes",
        "encoder",
        "certainty",
        "sigma_low",
        "sigma_high",
    ),
    "importance correction": ("correction", "correction_mode", "cap", "mixture"),
    "GRPO": (
        "advantage",
        "pass_k",
        "gate",
        "aggregation",
        "clip_low",
        "clip_high",
        "kl_coef",
        "entropy_coef",
        "lr",
        "grad_clip",
    ),
    "evaluation and checkpoints": (
        "evaluate",
        "eval_every",
        "eval_file",
        "eval_problems",
        "allow_overlap",
        "samples",
        "batch",
        "transcripts",
        "save_every",
    ),
}


def run(words: list[str]) -> int:
    """Train one policy and evaluate it."""
    parser = Parser(
        f"{NAME} train",
        "Train a policy with GRPO, or with PSN-GRPO where --sigma is above 0, into a run folder.",
        f"""examples:
  plain GRPO on Countdown, the shipped base, everything by default
      {NAME} train --out runs/grpo
  PSN-GRPO as in the demo, with half of its noise
      {NAME} train --preset demo --task rules --arm psn --sigma 0.4 --out runs/psn
  the released code's setting: one absolute draw on all weights per step, KL target
      {NAME} train --sigma 0.004 --targets all --schedule kl_target --out runs/released
  a 4-bit Qwen2.5-0.5B on GSM8K, which wants a GPU and the hub; ask `preflight` first
      {NAME} train --task math --difficulty source=gsm8k --base qwen2.5-0.5b-instruct --four-bit --lora-rank 16 \\
          --compute bfloat16 --sigma 0.004 --prompts 8 --group 8 --micro-batch 2 --recompute --out runs/gsm8k
  a GGUF file, short answers to worded sums of three steps (the extras gguf, qlora and math)
      {NAME} train --task math --difficulty source=sums sum_steps=3 style=line examples=1 completion=48 \\
          --base model.gguf --lora-rank 16 --prompts 8 --group 8 --out runs/sums
  go on after Ctrl-C, or after the machine went down
      {NAME} train --resume runs/psn

Ctrl-C finishes the step, saves and says how to go on; pressed twice, it stops at once.""",
    )
    parser.add_argument("--out", metavar="FOLDER", help="new run folder [default: by its settings]")
    parser.add_argument("--resume", metavar="FOLDER", help="go on with this run, as it was set")
    parser.add_argument("--preset", metavar="NAME", help="settings of quick, demo, full, qlora, ...")
    parser.add_argument("--arm", metavar="NAME", help="... of this arm: grpo, hot or psn")
    parser.add_argument(
        "--tensorboard", action="store_true", default=None, help="also draw curves for TensorBoard in the run folder"
    )
    add_flags(parser, RunConfig, HEADINGS)
    args = parser.parse_args(words)

    if args.resume:
        only(args, "resume", "tensorboard")
    else:
        config = from_flags(RunConfig, args, _preset_settings(args))
        check_effects(config, args)
        folder = Path(args.out or _folder_name(config))

    # Below the reading of the words: neither --help nor a mistake in a flag waits until torch is imported.
    from psn_tutorial.jobs.board import Board, summary_writer
    from psn_tutorial.jobs.interrupt import Stop
    from psn_tutorial.jobs.progress import follow
    from psn_tutorial.jobs.training import TrainingJob, export

    if args.tensorboard:
        summary_writer()
    if args.resume:
        folder = Path(args.resume)
        job = TrainingJob.resume(folder)
    else:
        job = TrainingJob.start(folder, config, [NAME, "train", *words])
    board = Board(job.run.path / "tensorboard", job.trainer.step_number) if args.tensorboard else None
    with resumable(command_line("train", "--resume", folder), folder), Stop() as stop:
        follow(job, stop, str(folder), sys.stderr.isatty(), lines=True, board=board)
        policy = export(job)
    if job.config.evaluate:
        print_summary(job.record.last, f"{folder}, step {job.config.steps}")
    print(f"run: {folder}    policy: {policy}")
    return 0


def _preset_settings(args: argparse.Namespace) -> RunConfig | None:
    """The arm of a preset that flags are laid over; None without --preset and --arm."""
    if args.preset is None and args.arm is None:
        return None
    experiments = preset(args.preset or "demo").values()
    tasks = {experiment.task: experiment for experiment in experiments}
    task = getattr(args, "task", None)
    if task not in tasks:
        raise UserError(f"--preset needs --task, one of {', '.join(tasks)}, got {task}")
    arms = tasks[task].arms
    arm = args.arm or "psn"
    if arm not in arms:
        raise UserError(f"arm must be one of {', '.join(arms)}, got {arm!r}{suggest(arm, arms)}")
    return tasks[task].config(arm, seed=0)


def _folder_name(config: RunConfig) -> str:
    """runs/rules-psn0.8-seed0"""
    kind = f"psn{config.sigma or config.sigma_end:g}" if config.noisy else "grpo"
    if config.hot:
        kind += f"-hot{config.sampling_temperature:g}"
    if config.prefix_words:
        kind += f"-prefix{config.prefix_words}"
    return f"runs/{folder_part(config.task)}-{kind}-seed{config.seed}"
