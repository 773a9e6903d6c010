"""The example of PSN-GRPO inside TRL runs."""

import importlib.util

import pytest

pytest.importorskip("trl")

from psn_tutorial.models.qlora import four_bit_layers  # noqa: E402
from tests.integrations.trainers import ROOT, logged  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of TRL, peft and transformers among each other


def test_the_example_runs_dry(tmp_path, capsys):
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("math_verify")
    spec = importlib.util.spec_from_file_location("trl_gsm8k_qlora", ROOT / "examples" / "trl_gsm8k_qlora.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    words = ["--output_dir", str(tmp_path), "--dry_run", "--use_cpu", "--report_to", "none", "--sigma", "0.01"]
    trainer = example.main(words)
    assert len(four_bit_layers(trainer.model)) == 7 * trainer.model.config.num_hidden_layers
    assert logged(trainer, "sigma")[0] == 0.01 and logged(trainer, "kl_k3")[0] > 0
    assert (tmp_path / "adapter_model.safetensors").is_file()
    answers = [[{"role": "assistant", "content": text}] for text in ("It is \\boxed{12}.", "\\boxed{13}")]
    assert example.correct(completions=answers, answer=["12", "12"]) == [1.0, 0.0]
