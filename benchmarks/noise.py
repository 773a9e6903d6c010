"""What the parts that only PSN-GRPO has cost, as shares of one of its steps.

Adding one draw of noise and taking it off again, the importance weights, the scheduler, a checkpoint. The step is one
of one draw on the MLP weights in which every group learns, so that the weights need no forward pass of their own.
"""

import tempfile
from pathlib import Path

from clock import finish, interleave, options, show, start
from floor import Countdown, Sizes, batch_options
from step import Contrasted

from psn_tutorial.config import TrainConfig
from psn_tutorial.importance import importance_weights
from psn_tutorial.noise import NoiseConfig, perturbed
from psn_tutorial.runs.folder import RunFolder
from psn_tutorial.trainer import Trainer

STEP, WEIGHTS, SCHEDULER = "a whole step", "importance weights, twice", "scheduler (KL target)"
SAVE = "checkpoint (safetensors, synced to the disk)"


def main(words: list[str] | None = None) -> list[dict]:
    args = batch_options(options(__doc__)).parse_args(words)
    start(args)
    sizes = Sizes(args.prompts, args.group)
    shared = Countdown(sizes)
    config = TrainConfig(
        prompts=sizes.prompts, group=sizes.group, lr=1e-9, sigma=0.2, relative=True, schedule="kl_target"
    )
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder) / "run", {})
        trainer = Trainer(config, shared.policy, Contrasted(shared.task), shared.problems, run)
        rollouts = trainer.roll_out(trainer.pick_problems())

        def noise(targets: str):
            def program() -> None:
                with perturbed(shared.model, NoiseConfig(0.2, targets, relative=True)):
                    pass

            return program

        def weights() -> None:
            for _ in range(2):  # once for the loss, once for the record
                importance_weights(rollouts.logps + 0.01, rollouts.logps, rollouts.mask)

        def save() -> None:
            trainer.save()
            trainer.step_number += 1  # the next one has a folder of its own

        programs = {
            STEP: trainer.step,
            **{f"perturb and restore, {targets}": noise(targets) for targets in ("mlp", "all")},
            WEIGHTS: weights,
            SCHEDULER: lambda: trainer.scheduler.update({"kl_k1": 0.01}),
            SAVE: save,
        }
        seconds = interleave(programs, args)
    goals = {"perturb and restore, mlp": "<= 0.03", WEIGHTS: "<= 0.02"}
    ratios = [(name, STEP, goals.get(name, "")) for name in programs if name != STEP]
    results = [show(f"Shares of a PSN-GRPO step: {sizes}", seconds, ratios)]
    finish(args, results)
    return results


if __name__ == "__main__":
    main()
