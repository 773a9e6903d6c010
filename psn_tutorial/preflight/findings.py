"""Findings of the doctor and of preflight, and how they are printed."""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Finding:
    """One thing looked at. state: "good", "absent" (missing, but optional) or "bad" (must be corrected first).

    advice: what to do, a sentence; "" where there is nothing to do.
    """

    name: str
    value: str
    state: str = "good"
    advice: str = ""


NEXT = (
    "Everything that the demo needs is here. Next: "
    "psn-tutorial compare --preset quick --out runs/quick (seconds), then --preset demo."
)


def show(findings: list[Finding], as_json: bool = False, then: str = NEXT) -> int:
    """Print the findings, and what to do ``then``; returns 0, or 1 when something is in the way."""
    bad = [finding for finding in findings if finding.state == "bad"]
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
        return int(bool(bad))
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        sign = {"good": " ", "absent": "-", "bad": "!"}[finding.state]
        print(f"{sign} {finding.name:<{width}}  {finding.value}")
    print()
    for finding in findings:
        if finding.advice:
            print(f"{'!' if finding.state == 'bad' else '-'} {finding.advice}")
    if bad:
        print("\nFix what is marked ! first.")
    else:
        print(f"\n{then}")
    return int(bool(bad))
