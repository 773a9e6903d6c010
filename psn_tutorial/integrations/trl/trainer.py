"""TRL's GRPOTrainer with noise on its rollouts; the package says what differs and through which hooks."""

import json
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessorList, ProcessorMixin, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import GRPOTrainer
from trl.data_utils import is_conversational
from trl.distributed import DistributedBackend
from trl.models.utils import disable_gradient_checkpointing, unwrap_model_for_generation
from trl.trainer.utils import pad

from psn_tutorial.carriers import carried, check_carrier
from psn_tutorial.errors import UserError
from psn_tutorial.importance import importance_weights
from psn_tutorial.integrations.trl.checks import check_arguments, check_sampling, check_shards
from psn_tutorial.integrations.trl.config import PSNConfig
from psn_tutorial.integrations.trl.ratios import RatioSums, SamplerLogps
from psn_tutorial.integrations.trl.reading import Reader, Sequences
from psn_tutorial.integrations.trl.rewards import RewardSums
from psn_tutorial.models.encoders import sentence_encoder
from psn_tutorial.models.qlora import keep_gradients_right_on_cpu
from psn_tutorial.noise import NoiseConfig, NoiseReceipt, perturbed, stream
from psn_tutorial.schedulers import make_scheduler
from psn_tutorial.signals import semantic_similarity

STATE = "psn_state.json"  # in a checkpoint's folder


class Steps(TrainerCallback):
    """Tells the trainer when an optimiser step ends and when a checkpoint has been written."""

    def __init__(self, trainer: "PSNGRPOTrainer") -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.end_step()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.should_save:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            (folder / STATE).write_text(json.dumps({"scheduler": self.trainer.scheduler.state_dict()}) + "\n")


class LossInputs(dict):
    """The inputs of TRL's loss, whose advantages are worked out when it asks for them. It does so after its forward
    pass, which gives the clean log-probs: so these cost no pass of their own, and are rounded as the loss rounds."""

    def __init__(self, inputs: dict[str, Any], advantages: Callable[[], Tensor]) -> None:
        super().__init__(inputs)
        self.advantages = advantages

    def __getitem__(self, name: str) -> Any:
        return self.advantages() if name == "advantages" else super().__getitem__(name)


class PSNGRPOTrainer(GRPOTrainer):
    """TRL's GRPOTrainer with parameter-space noise on the rollouts; all arguments are those of GRPOTrainer.

    Args:
        args: a :class:`PSNConfig`; None: its defaults.

    Raises:
        UserError: the noise's targets match nothing, or something that the noise cannot be combined with: an own
            ``rollout_func``, tools and environments, images, vLLM with an adapter or with weights in shards, unsloth.
        ValueError: what TRL refuses; among it an adapter on the head, whose weight TRL reads directly.
    """

    def __init__(
        self, model: Any, reward_funcs: Any = None, args: PSNConfig | None = None, *others: Any, **named: Any
    ) -> None:
        if args is None:
            name = model if isinstance(model, str) else model.config._name_or_path
            args = PSNConfig(f"{name.split('/')[-1]}-PSN-GRPO")
        if not isinstance(args, PSNConfig):
            raise UserError(f"args must be a PSNConfig, got {type(args).__name__}")
        if not args.noisy:
            super().__init__(model, reward_funcs, args, *others, **named)
            return
        check_arguments(model, args, named)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="You are using 'rollout_func'")
            super().__init__(model, reward_funcs, args, *others, **named, rollout_func=self.roll_out)
        if isinstance(self.processing_class, ProcessorMixin):
            raise UserError("processing_class must be a tokenizer with noise: images are not supported")
        keep_gradients_right_on_cpu(self.model)
        self.scheduler = make_scheduler(args)
        self.encoder = sentence_encoder(args.encoder) if args.schedule == "realtime" else None
        self.reader = Reader(self.temperature, self.accelerator.autocast)
        self.ratios, self.micro_batches, self.signals = RatioSums(), 0, {}
        self.rewards = RewardSums(self)
        self.generation = (-1, 0)  # the optimiser step of the last one, and its place among those of this step
        self.psn_metrics: dict[str, list[float]] = defaultdict(list)
        self.engine_is_noisy = False
        self._check_noise()
        self.add_callback(Steps(self))

    def _check_noise(self) -> None:
        """A filter that matches nothing is told now, and what the noise or the ratios cannot reach."""
        if not self.use_vllm:
            check_sampling(self.model.generation_config)
        if self.sharded:
            check_shards(self.args)
        check_carrier(self.model, self.noise or NoiseConfig.of(self.args, 0.0))

    @cached_property
    def sharded(self) -> bool:
        """Does a process hold only parts of the weights?"""
        backend = DistributedBackend(self.accelerator)
        return backend.is_fsdp or backend.is_zero3

    @property
    def noise(self) -> NoiseConfig | None:
        """The noise of the next rollouts, as large as the scheduler says; None: they are clean."""
        if self.scheduler.sigma == 0:
            return None
        noise = NoiseConfig.of(self.args, self.scheduler.sigma)
        return replace(noise, carrier="lowrank") if self.sharded else noise

    @property
    def reuses_rollouts(self) -> bool:
        """Does a real-time schedule look at the rollouts themselves?"""
        return self.encoder is not None and self.args.probes == "reuse"

    def train(self, resume_from_checkpoint: str | bool | None = None, *others: Any, **named: Any) -> Any:
        """As TRL's; the scheduler goes on where the checkpoint left it.

        Raises:
            UserError: the checkpoint has the state of another kind of scheduler.
        """
        if self.args.noisy and resume_from_checkpoint:
            found = resume_from_checkpoint
            file = Path(get_last_checkpoint(self.args.output_dir) or "" if found is True else found) / STATE
            if file.is_file():
                self.scheduler.load_state_dict(json.loads(file.read_text())["scheduler"])
        return super().train(resume_from_checkpoint, *others, **named)

    # Rollouts

    def roll_out(self, prompts: list[Any], trainer: GRPOTrainer) -> dict[str, Any]:
        """TRL's ``rollout_func``: one completion for each of R prompts, which stand there as often as needed.

        Returns:
            prompt_ids and completion_ids, R lists of ids, up to and including the end token; logprobs, the sampler's
            log-probs of the latter at the temperature, None where the clean policy was sampled.
        """
        ids, noise, draws, group = self.prompt_ids(prompts), None, None, self.num_generations_eval
        if self.model.training:
            noise, draws, group = self.noise, self.next_draws(), self.num_generations
            self.signals, self.last_rollouts = {"sigma": noise.sigma if noise else 0.0}, (ids, draws)
        completions, logps, statistics = self.generate(ids, noise, draws, group)
        self.signals |= statistics
        if self.model.training and self.reuses_rollouts:
            self.signals["similarity"] = self.similarity(completions, group)
        return {"prompt_ids": ids, "completion_ids": completions, "logprobs": logps}

    def prompt_ids(self, prompts: list[Any]) -> list[list[int]]:
        """The token ids of texts or conversations, as TRL makes them."""
        if is_conversational({"prompt": prompts[0]}):
            return self.processing_class.apply_chat_template(
                conversation=prompts,
                chat_template=self.chat_template,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                **self.chat_template_kwargs,
            )["input_ids"]
        return self.processing_class(text=prompts)["input_ids"]

    def next_draws(self) -> Tensor:
        """The number of the draw of each row, [R], from the optimiser step alone: a resumed run goes on with the same
        numbers. Several generations within one step have numbers of their own."""
        args, step = self.args, self.state.global_step
        self.generation = (step, self.generation[1] + 1 if self.generation[0] == step else 0)
        number = step * math.ceil(args.gradient_accumulation_steps / args.steps_per_generation) + self.generation[1]
        process = self.accelerator.process_index
        if args.draws_per_process:
            number = number * args.world_size + process
        return number * args.draws + args.row_draws(process)

    def generate(
        self, prompts: list[list[int]], noise: NoiseConfig | None, draws: Tensor | None, group: int
    ) -> tuple[list[list[int]], list[list[float | None]] | None, dict[str, float]]:
        """Completions of R prompts, of which ``group`` are alike in a row, each under its draw [R] of the noise.

        Returns:
            R lists of ids, up to and including the end token; their log-probs, None without noise; and what the noise
            did to the weights.
        """
        generate = self.generate_with_vllm if self.use_vllm else self.generate_with_transformers
        completions, logps, receipt = generate(prompts, noise, draws, group)
        if receipt is None:
            return completions, logps, {}
        names = {"sigma_realised": receipt.realised_sigma, "unchanged_fraction": receipt.unchanged_fraction}
        return completions, logps, names

    def generate_with_transformers(
        self, prompts: list[list[int]], noise: NoiseConfig | None, draws: Tensor | None, group: int
    ) -> tuple[list[list[int]], list[list[float]] | None, NoiseReceipt | None]:
        """Completions by transformers' ``generate``, as TRL calls it."""
        order = draws.argsort(stable=True) if noise else torch.arange(len(prompts))  # a draw's rows stand together
        rows = [torch.tensor(prompts[i]) for i in order.tolist()]
        fill = {"padding_side": "left", "pad_to_multiple_of": self.pad_to_multiple_of}
        ids = pad(rows, padding_value=self.generation_config.pad_token_id, **fill).to(self.accelerator.device)
        mask = pad([torch.ones_like(row) for row in rows], padding_value=0, **fill).to(ids.device)
        numbers, keeper = draws.unique().tolist() if noise else [], SamplerLogps(self.temperature)
        with (
            unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                generation_kwargs=self.generation_kwargs,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
            ) as model,
            torch.no_grad(),
            DistributedBackend(self.accelerator).summon_full_params(self.model_wrapped, recurse=False),
            carried(model, noise, numbers) if noise else nullcontext() as receipt,
        ):
            found = model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=self.generation_config,
                logits_processor=LogitsProcessorList([keeper] if noise else []),
            )
            tokens = found[:, ids.shape[1] :]
            ended = torch.isin(tokens, torch.tensor(self.eos_token_ids, device=tokens.device))
            until_end = ended.cumsum(1) - ended.long() == 0
            logps = keeper.all(found) if noise else None
            if self.args.mixture and len(numbers) > 1:
                shown = Sequences(found, torch.cat([mask, until_end.long()], 1), until_end)
                logps = self.reader.mixture(model, shown, self.args.per_device_train_batch_size, len(numbers))
        lengths, back = until_end.sum(1).tolist(), order.argsort().tolist()
        cut = lambda x: [x[i][: lengths[i]] for i in back]  # noqa: E731
        return cut(tokens.tolist()), None if logps is None else cut(logps.tolist()), receipt

    def generate_with_vllm(
        self, prompts: list[list[int]], noise: NoiseConfig | None, draws: Tensor | None, group: int
    ) -> tuple[list[list[int]], list[list[float | None]], NoiseReceipt | None]:
        """Completions by vLLM, with noisy weights loaded into it for each draw; not run on a real vLLM."""
        engine = self.vllm_generation
        if noise is None:
            if self.engine_is_noisy:  # TRL loads weights once per optimiser step, and does not know of ours
                engine.sync_weights()
                self.engine_is_noisy = False
            _, completions, logps, _ = engine.generate(prompts=prompts, images=None, num_generations=group)
            return completions, _first(logps), None
        completions, logps = [None] * len(prompts), [None] * len(prompts)
        numbers = draws.unique().tolist()
        for number in numbers:
            with perturbed(self.accelerator.unwrap_model(self.model), noise, number) as receipt:
                engine.sync_weights()
            self.engine_is_noisy = True
            rows = (draws == number).nonzero()[:, 0].tolist()
            # Of several draws a group's rows come from different weights: one answer is asked for at a time.
            _, tokens, scores, _ = engine.generate(
                prompts=[prompts[i] for i in rows], images=None, num_generations=group if len(numbers) == 1 else 1
            )
            for i, row, score in zip(rows, tokens, _first(scores), strict=True):
                completions[i], logps[i] = row, score
        return completions, logps, receipt

    # What a real-time schedule looks at

    def similarity(self, completions: list[list[int]], group: int) -> float:
        """How alike the answers to one prompt are, over all processes: a group may be spread over several."""
        texts = self.processing_class.batch_decode(completions, skip_special_tokens=True)
        embeddings = self.accelerator.gather(self.encoder.encode(texts).to(self.accelerator.device))
        return semantic_similarity(embeddings, group)

    def probe(self) -> dict[str, float]:
        """The signals of separate probes: two answers to each prompt of the last rollouts, from the policy as it is now
        with the first of their draws. Nothing is learned from them, and no random number of the training is used."""
        ids, draws = self.last_rollouts
        ids = [row for row in ids[:: self.num_generations] for _ in range(2)]
        first = torch.full((len(ids),), int(draws[0]) // self.args.draws * self.args.draws)
        device = self.accelerator.device
        numbers = stream(self.args.seed, "probes", int(first[0]), self.accelerator.process_index)
        kept = {"devices": [device], "device_type": device.type} if device.type != "cpu" else {"devices": []}
        with torch.random.fork_rng(**kept):
            torch.manual_seed(numbers.initial_seed())
            completions, _, _ = self.generate(ids, self.noise, first, group=2)
        shown = Sequences.padded(ids, completions, device)
        certainty = self.certainty(self.model_wrapped, shown)
        of_process = torch.tensor([float(certainty.double().sum()), int(shown.mask.sum())], device=device)
        total, tokens = self.accelerator.reduce(of_process, reduction="sum").tolist()
        return {"similarity": self.similarity(completions, group=2), "self_certainty": total / tokens}

    def certainty(self, model: nn.Module, shown: Sequences) -> Tensor:
        """The certainty [B, T] of the clean policy about each token of the completions."""
        with disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            return self.reader.certainty(model, shown, self.args.certainty)

    # Correction

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *others: Any, **named: Any) -> Tensor:
        """TRL's loss, each token's advantage times its truncated importance weight."""
        if not (self.args.noisy and self.model.training):
            return super().compute_loss(model, inputs, *others, **named)
        read: list[Tensor] = []  # the log-probs of the loss's own forward pass
        hook = self.model.register_forward_hook(lambda *call: read.append(getattr(call[-1], "log_probs", None)))

        def advantages() -> Tensor:
            hook.remove()
            if "psn_weights" not in inputs:  # the first sight of a micro-batch; num_iterations shows it again
                inputs["psn_weights"] = self.weigh(model, inputs, read[0] if read else None)
                self.micro_batches += 1
            plain, weights = inputs["advantages"], inputs["psn_weights"]
            return plain if weights is None else plain[:, None] * weights

        try:
            loss = super().compute_loss(model, LossInputs(inputs, advantages), *others, **named)
        finally:
            hook.remove()
        if "psn_weights" not in inputs:
            raise RuntimeError('the loss of this trl does not read inputs["advantages"]: the rollouts stay uncorrected')
        return loss

    def weigh(self, model: nn.Module, inputs: dict[str, Any], now: Tensor | None) -> Tensor | None:
        """Weights [B, T] of a micro-batch, and its statistics; None where TRL's loss is right as it is.

        now: log-probs that end with those of the T completion tokens, under the policy as it is; None: to be found.
        """
        args, sampler = self.args, inputs.get("sampling_per_token_logps")
        if sampler is None or self.signals["sigma"] == 0:
            return None
        mask = inputs["completion_mask"].bool() & sampler.isfinite()  # vLLM may not know a log-prob
        if not bool(mask.any()):
            return None
        shown, clean = Sequences.of(inputs), inputs.get("old_per_token_logps")
        if clean is None and now is not None:  # no update since these rollouts: the policy as it is now
            clean = now.detach()[:, -mask.shape[1] :]
        if clean is None:
            with disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
                clean = self.reader.log_probs(model, shown)
        level = "token" if args.correction == "none" else args.correction
        found = importance_weights(clean, sampler, mask, args.cap, level, args.correction_mode)
        certainty = float(self.certainty(model, shown)[mask].double().sum()) if self.reuses_rollouts else 0.0
        self.ratios.add(found, mask, level, certainty)
        return None if args.correction == "none" or self.use_vllm else found.weights

    # From one step to the next

    def end_step(self) -> None:
        """After an optimiser step: once a whole generation has been learned from, the scheduler sees what it was."""
        if self.micro_batches < self.args.steps_per_generation:
            return
        found = self.ratios.means(self.accelerator) if self.signals["sigma"] else {}
        if not self.reuses_rollouts:
            found.pop("self_certainty", None)
        signals = self.signals | found
        if self.encoder and not self.reuses_rollouts:
            signals |= self.probe()
        self.ratios, self.micro_batches, reward = RatioSums(), 0, self.rewards.mean(self.accelerator)
        if found or not signals["sigma"]:  # without a single token there is nothing to go by
            self.scheduler.update({"reward": reward} | signals)
        for name, value in signals.items():
            self.psn_metrics[f"psn/{name}"].append(value)

    def log(self, logs: dict[str, float], *others: Any, **named: Any) -> None:
        """TRL's log, with the mean since the last one of everything that :meth:`end_step` found."""
        if self.args.noisy and self.model.training:
            logs.update({name: sum(values) / len(values) for name, values in self.psn_metrics.items()})
            self.psn_metrics.clear()
        super().log(logs, *others, **named)


def _first(logps: Sequence[Sequence[Sequence[float | None]]]) -> list[list[float | None]]:
    """vLLM gives a list of log-probs for every token; the sampled one's stands first."""
    return [[token[0] for token in row] for row in logps]
