"""The manifest of a data folder that stands anywhere."""

import json

from psn_tutorial.runs.manifest import update


def test_what_a_study_does_not_ship_is_left_out_wherever_the_checkout_stands(tmp_path):
    data = tmp_path / "weights" / "data"  # the name of a folder that is not shipped, above the data
    for name in ("runs/study/arm", "runs/study/.running/arm", "runs/study/base/weights"):
        (data / name).mkdir(parents=True)
        (data / name / "provenance.json").write_text('{"command": ["psn-tutorial", "study", "a.yaml"]}')
    update(data)
    manifest = json.loads((data / "MANIFEST.json").read_text())
    assert {name: entry["made_by"] for name, entry in manifest.items()} == {
        "runs/study/arm/provenance.json": "psn-tutorial study a.yaml"
    }
