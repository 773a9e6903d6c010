"""psn-tutorial probe: what noise does to a policy, without training."""

import argparse
import sys
from pathlib import Path

from psn_tutorial.cli.flags import add_flags, from_flags
from psn_tutorial.cli.output import command_line, folder_part, resumable
from psn_tutorial.cli.parser import NAME, Parser
from psn_tutorial.config import ProbeConfig
from psn_tutorial.errors import UserError
from psn_tutorial.evaluation.probes import WAYS, Sampler
from psn_tutorial.reporting.tables import matched_table, probe_table, signals_table
from psn_tutorial.reporting.terminal import print_table

USUAL = ("clean", "temperature=1.2", "mlp=0.03", "mlp=0.1", "attention=0.1")
MATCHES = {"temperature": "temperature", "top-p": "top_p"}


def run(words: list[str]) -> int:
    """Sample from a policy with noise, at temperatures and with top-p, and compare the answers."""
    parser = Parser(
        f"{NAME} probe",
        "What noise does to a policy that is not trained: KL, ESS, form of the answers, pass@k, consistency.",
        f"""examples:
  the shipped base of rules, noise on the head against a temperature
      {NAME} probe --task rules --sampler clean temperature=2 head=0.8
  a GGUF file on worded sums, and for every noise the temperature and the top-p of equal KL
      {NAME} probe model.gguf --difficulty source=sums style=line examples=1 completion=40 \\
          --sampler mlp=0.03 mlp=0.1 attention=0.1 --match temperature top-p --out runs/probe
  go on, or add a sampler: the same command again, with --sampler as it is to be""",
        "[POLICY] ",
    )
    parser.add_argument(
        "policy",
        nargs="?",
        metavar="POLICY",
        help="checkpoint folder, run folder, GGUF file or short name of a model "
        "[default: the shipped base of the task]",
    )
    parser.add_argument("--out", metavar="FOLDER", help="record of the probes [default: runs/probe-<policy>-<task>]")
    parser.add_argument(
        "--sampler", nargs="+", type=_sampler, metavar="WAY", help=f"clean, {WAYS} [default: {' '.join(USUAL)}]"
    )
    parser.add_argument(
        "--match", nargs="+", choices=MATCHES, default=[], help="for every noise, also these at its KL [default: none]"
    )
    add_flags(parser, ProbeConfig)
    args = parser.parse_args(words)
    config = from_flags(ProbeConfig, args)
    samplers = args.sampler or [Sampler.parse(word) for word in USUAL]
    if args.match and not any(sampler.sigma for sampler in samplers):
        raise UserError(f"match needs a sampler with noise, got {' '.join(map(str, samplers))}")

    # Below the reading of the words: neither --help nor a mistake in a flag waits until torch is imported.
    from psn_tutorial.jobs.policies import base_of
    from psn_tutorial.jobs.probing import probe_policy

    policy = args.policy or base_of(config)
    folder = Path(args.out or f"runs/probe-{Path(str(policy)).stem}-{folder_part(config.task)}")
    match, probes = [MATCHES[name] for name in args.match], []
    with resumable(command_line("probe", *words), folder):
        for made in probe_policy(folder, policy, config, samplers, match, [NAME, "probe", *words], sys.stderr.isatty()):
            probes.append(made)
            print(f"{made.sampler}: {made.seconds:.0f} s", file=sys.stderr, flush=True)
    print_table(probe_table(f"{policy} on {config.task}, untrained", probes))
    if (matched := matched_table("Noise minus another sampler of its KL", probes)).rows:
        print_table(matched)
    if config.encoder:
        print_table(signals_table("What the schedule realtime would read", probes))
    there = {(made.matches, setting) for made in probes for setting in match if getattr(made.sampler, setting) != 1}
    for sampler, name in [(s, name) for s in samplers if s.sigma for name in args.match]:
        if (str(sampler), MATCHES[name]) not in there:
            print(f"no {name} has the KL of {sampler}")
    print(f"record: {folder}")
    return 0


def _sampler(word: str) -> Sampler:
    try:
        return Sampler.parse(word)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
