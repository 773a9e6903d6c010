"""psn-tutorial doctor: what this machine can run."""

from psn_tutorial.cli.parser import NAME, Parser
from psn_tutorial.preflight.findings import show
from psn_tutorial.preflight.machine import examine


def run(words: list[str]) -> int:
    """Tell what this machine can run."""
    parser = Parser(
        f"{NAME} doctor",
        "Say what this machine can run, and what to do next. Changes nothing.",
        f"""example:
  {NAME} doctor --offline""",
    )
    parser.add_argument("--offline", action="store_true", help="do not ask whether the hub answers")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    args = parser.parse_args(words)
    return show(examine(online=not args.offline), as_json=args.json)
