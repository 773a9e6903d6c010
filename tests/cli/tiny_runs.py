"""Runs of a few steps, what they leave, and how they are stopped."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import torch

import psn_tutorial
from psn_tutorial.jobs.interrupt import Stop
from psn_tutorial.runs.folder import RunFolder

# A few steps of the smallest task; the entropy bonus moves the weights even where nothing is right.
TINY = "--task chain --steps 4 --prompts 2 --group 4 --samples 4 --entropy-coef 0.01 --lr 0.001".split()
NOISY = [*TINY, "--sigma", "0.5", "--relative", "--targets", "all", "--draws", "4"]
LONG = [*NOISY, "--steps", "12", "--save-every", "5", "--eval-every", "4"]


def process(*words, **options):
    """Start a command line as a process."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(psn_tutorial.__file__).parents[1])}
    code = "import sys; from psn_tutorial.cli import main; sys.exit(main())"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, words)], **pipes | options)


def weights(folder):
    """All weights in the newest checkpoint of a run, as one vector."""
    model = RunFolder.open(folder).latest_checkpoint().tensors["model"]
    return torch.cat([model[name].flatten() for name in sorted(model)])


def timeless(run):
    """The step records of a run without the seconds that the steps took."""
    return [{k: v for k, v in r.items() if not k.startswith("seconds")} for r in RunFolder.open(run).steps()]


def stopped_after(steps):
    """A Stop that is asked for when so many steps are taken."""

    class Planned(Stop):
        taken = 0

        @property
        def asked(self):
            self.taken += 1
            return signal.SIGTERM if self.taken >= steps else None

        @asked.setter
        def asked(self, value):
            pass

    return Planned()
