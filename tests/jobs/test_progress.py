"""Following a job."""

import json

from psn_tutorial.config import RunConfig
from psn_tutorial.jobs.interrupt import Stop
from psn_tutorial.jobs.progress import follow
from psn_tutorial.jobs.records import RunRecord
from psn_tutorial.jobs.training import TrainingJob


def test_a_job_can_be_followed_from_python(tmp_path):
    config = RunConfig(task="chain", steps=2, prompts=2, group=4, samples=0)
    job = TrainingJob.start(tmp_path / "run", config)
    with Stop() as stop:
        follow(job, stop, "run", bar=True)
    assert RunRecord.read(tmp_path / "run").finished
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["command"] is None
