"""Sampling with log-probs: psn_tutorial against transformers' generate, and against the arithmetic alone.

The end token is impossible for both, so that every rollout has all its tokens. generate returns the raw logits of
every step and no log-probs: reading those out of it is not counted against it.
"""

import torch
from clock import finish, interleave, options, show, start
from floor import Countdown, Floor, Sizes, batch_options
from transformers import GenerationConfig

from psn_tutorial.noise import stream
from psn_tutorial.rollout import sample

OURS, THEIRS, FLOOR = "psn_tutorial.rollout.sample", "transformers' generate, with logits", "matrix products alone"


def whole_distribution(new: int, ends: list[int] | None, pad: int) -> GenerationConfig:
    """generate's settings for what our sampler does: at most ``new`` tokens at temperature 1, with their logits."""
    return GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=new,
        eos_token_id=ends,
        pad_token_id=pad,
        output_logits=True,
        return_dict_in_generate=True,
        disable_compile=True,
    )


def main(words: list[str] | None = None) -> list[dict]:
    args = batch_options(options(__doc__)).parse_args(words)
    start(args)
    sizes = Sizes(args.prompts, args.group)
    shared = Countdown(sizes)
    pad = shared.tokenizer.pad_token_id
    generator = stream(0, "benchmark")
    rows = torch.arange(sizes.prompts).repeat_interleave(sizes.group)
    settings = whole_distribution(sizes.new, None, pad)

    def ours():
        rollouts = sample(shared.policy, shared.prompts, sizes.group, sizes.new, generator, ends=False)
        assert rollouts.mask.all() and rollouts.logps.shape == (sizes.rows, sizes.new)

    def theirs():
        with torch.no_grad():
            out = shared.model.generate(
                shared.prompts.ids[rows], attention_mask=shared.prompts.mask[rows].long(), generation_config=settings
            )
        assert out.sequences.shape == (sizes.rows, sizes.prompt + sizes.new) and len(out.logits) == sizes.new

    floor = Floor(shared.model, sizes)
    seconds = interleave({OURS: ours, THEIRS: theirs, FLOOR: floor.sampling}, args)
    parameters = sum(p.numel() for p in shared.model.parameters())
    title = f"Sampling {sizes}, {parameters:,} parameters"
    results = [show(title, seconds, [(THEIRS, OURS, ">= 2"), (OURS, FLOOR, "<= 1.5"), (THEIRS, FLOOR, "")])]
    finish(args, results)
    return results


if __name__ == "__main__":
    main()
