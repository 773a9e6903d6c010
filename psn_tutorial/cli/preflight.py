"""psn-tutorial preflight: two steps of a run, looked at closely."""

from psn_tutorial.cli.flags import add_flags, from_flags
from psn_tutorial.cli.output import command_line
from psn_tutorial.cli.parser import NAME, Parser
from psn_tutorial.cli.train import HEADINGS
from psn_tutorial.config import RunConfig, check_effects
from psn_tutorial.preflight.findings import show


def run(words: list[str]) -> int:
    """Take two steps of a run and look at them closely."""
    parser = Parser(
        f"{NAME} preflight",
        "Take two steps with the settings of `train`, keep nothing, and say what would go wrong: prompt, length, "
        "contrast, log-probs, memory, time.",
        f"""examples:
  before a night on a rented card
      {NAME} preflight --task math --base qwen2.5-0.5b-instruct --lora-rank 16 --four-bit \\
          --compute bfloat16 --sigma 0.004 --prompts 8 --group 8 --micro-batch 4
  the same questions to the tiny model
      {NAME} preflight --task rules""",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    add_flags(parser, RunConfig, HEADINGS)
    args = parser.parse_args(words)
    config = from_flags(RunConfig, args)
    check_effects(config, args)

    # Below the reading of the words: neither --help nor a mistake in a flag waits until torch is imported.
    from psn_tutorial.preflight.run import preflight

    return show(preflight(config), args.json, f"Nothing is in the way of: {command_line('train', *words)}")
