"""A real pretrained model through the package's own path: SmolLM2-135M-Instruct, from its GGUF file."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

from psn_tutorial.config import TrainConfig
from psn_tutorial.evaluation.shifts import answer_logps, clean_answers
from psn_tutorial.jobs.policies import load_policy
from psn_tutorial.models.decoder import forward
from psn_tutorial.models.policy import Policy, asked, encode, end_tokens
from psn_tutorial.models.qlora import QLoRAConfig, adapted, dequantised, four_bit_layers, load_base
from psn_tutorial.noise import NoiseConfig, perturbed, stacked, stream
from psn_tutorial.rollout import completion_logps, read_completions, responses, sample
from psn_tutorial.tasks import get_task
from psn_tutorial.tasks.base import Verdict
from psn_tutorial.tasks.math import Math
from psn_tutorial.trainer import Trainer
from tests.models.smollm2 import FILE, FOLDER

pytestmark = pytest.mark.skipif(not FILE.is_file(), reason="SmolLM2 is not here: python -m tests.models.smollm2")

TASK = Math(source="sums", style="line", examples=1, completion=24)
PROBLEMS = TASK.problems("eval")


@pytest.fixture(autouse=True, scope="module")
def unpacked_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PSN_TUTORIAL_CACHE", str(FOLDER))
        yield


@pytest.fixture(scope="module")
def smollm2(unpacked_once):
    return load_policy(FILE)


@pytest.fixture(scope="module")
def prompts(smollm2):
    return encode(smollm2.tokenizer, asked(smollm2.tokenizer, TASK, sorted(PROBLEMS[:8], key=lambda p: p.level)[2:6]))


@torch.no_grad()
def logits(model, ids, mask=None):
    return forward(model, ids, mask)


def test_our_forward_pass_is_transformers_own(smollm2, prompts):
    with torch.no_grad():
        theirs = smollm2.model(prompts.ids, attention_mask=prompts.mask.long(), position_ids=positions(prompts)).logits
    ours = logits(smollm2.model, prompts.ids, prompts.mask)
    assert not prompts.mask.all()  # some rows are padded
    assert (ours - theirs)[prompts.mask].abs().max() < 2e-3


def positions(prompts):
    return (prompts.mask.cumsum(1) - 1).clamp_min(0)


def test_padding_on_the_left_changes_nothing(smollm2, prompts):
    padded = int(prompts.mask.sum(1).argmin())
    alone = prompts.ids[padded][prompts.mask[padded]][None]
    together = logits(smollm2.model, prompts.ids, prompts.mask)[padded, -1]
    assert (together - logits(smollm2.model, alone)[0, -1]).abs().max() < 2e-3


def test_its_template_and_its_one_token_for_the_end_and_for_padding(smollm2):
    tokenizer = smollm2.tokenizer
    [text] = asked(tokenizer, TASK, PROBLEMS[:1])
    assert text == (
        "<|im_start|>system\nAnswer in one line: the calculation, then the result in \\boxed{}.<|im_end|>\n"
        "<|im_start|>user\nTom has 3 pens. He buys 4 more and gives 2 away. How many pens has Tom now?<|im_end|>\n"
        "<|im_start|>assistant\n3 + 4 - 2 = 5. \\boxed{5}<|im_end|>\n"
        f"<|im_start|>user\n{PROBLEMS[0].question}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.pad_token_id == tokenizer.eos_token_id and end_tokens(smollm2) == [tokenizer.eos_token_id]
    assert tokenizer.convert_ids_to_tokens(tokenizer("12 45")["input_ids"]) == ["1", "2", "Ġ", "4", "5"]


def test_it_counts_on_and_keeps_a_habit_that_the_prompt_gives_it(smollm2):
    task = get_task("habit")
    answers = clean_answers(smollm2, task, [37, 60])
    assert answers.length == task.max_tokens(37) and answers.choices.tolist() == list(range(0, 36, 5))
    logps = answer_logps(smollm2, answers.ids, answers.length)
    dog, cat = (logps[:, answers.choices].gather(2, x[..., None]).exp() for x in (answers.rare, answers.other))
    assert (dog + cat).mean() > 0.95 and dog.mean() < 0.3 < cat.mean()
    assert logps.gather(2, answers.ids[:, -36:, None])[:, 1::5].exp().mean() > 0.8, "a new line after every word"


def test_it_answers_and_the_trainer_reads_what_the_sampler_wrote(smollm2, prompts):
    rollouts = sample(smollm2, prompts, 4, 24, stream(0, "smollm2"))
    reading = read_completions(smollm2.model, rollouts, torch.arange(16), 1.0)
    assert (reading.logps - rollouts.logps)[rollouts.mask].abs().max() < 2e-3
    texts = responses(smollm2.tokenizer, rollouts)
    assert sum("boxed" in text for text in texts) >= 4 and not any("<|im_end|>" in text for text in texts)
    assert rollouts.ended.any()


def test_noise_comes_and_goes_bit_for_bit_and_two_draws_fit_in_one_pass(smollm2, prompts):
    model, config = smollm2.model, NoiseConfig(0.05, "mlp", relative=True)
    clean, weights = logits(model, prompts.ids), [p.detach().clone() for p in model.parameters()]
    each = []
    for draw in (0, 1):
        with perturbed(model, config, draw) as receipt:
            each.append(logits(model, prompts.ids[2 * draw : 2 * draw + 2]))
        assert receipt.realised_sigma == pytest.approx(receipt.requested_sigma, rel=0.01)
    with stacked(model, config, [0, 1]):
        together = logits(model, prompts.ids)
    assert (together - torch.cat(each)).abs().max() < 5e-3 < (together - clean).abs().max()
    assert all(torch.equal(p, before) for p, before in zip(model.parameters(), weights, strict=True))
    assert torch.equal(logits(model, prompts.ids), clean)


def test_gradients_in_four_bits_are_those_of_the_dequantised_copy(smollm2, prompts):
    pytest.importorskip("bitsandbytes")
    config = QLoRAConfig(str(FILE), compute="float32", rank=4)
    ids, found = prompts.ids[:1, -40:], []
    for undo in (False, True):
        base, _ = load_base(config)
        assert len(four_bit_layers(base)) == 30 * 7
        model = adapted(dequantised(base) if undo else base, config)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.fill_(0.01)
        with torch.no_grad():
            forward(model, ids)  # sampling comes first in every step
        F.cross_entropy(forward(model, ids)[0, :-1], ids[0, 1:]).backward()
        found.append({name: p.grad.flatten() for name, p in model.named_parameters() if p.grad is not None})
    for name, expected in found[1].items():
        assert F.cosine_similarity(found[0][name], expected, dim=0) > 0.999, name


@dataclass(frozen=True)
class EvenLength(Math):
    """Rewards what a model does about half of the time, without knowing it."""

    def verify_many(self, responses, problems):
        return [Verdict(len(text) % 2 == 0, "") for text in responses]


def test_a_step_of_psn_grpo_raises_the_log_prob_of_what_was_rewarded(smollm2):
    task = EvenLength(source="sums", completion=12)
    noise = {"sigma": 0.02, "relative": True, "draws": 2, "carrier": "lowrank"}
    config = TrainConfig(task="math", prompts=2, group=16, steps=1, lr=3e-4, **noise)
    policy = Policy(adapted(load_policy(FILE).model, QLoRAConfig(str(FILE), False, rank=4)), smollm2.tokenizer)
    trainer = Trainer(config, policy, task, PROBLEMS[:2])
    problems = trainer.pick_problems()
    rollouts = trainer.roll_out(problems)  # those of the step to come
    rewarded = trainer.verify(responses(policy.tokenizer, rollouts), problems).flatten().bool()
    assert 4 <= rewarded.sum() <= 28

    def per_token():
        with torch.no_grad():
            logps, _ = completion_logps(policy.model, rollouts, torch.arange(32), 1.0)
        return torch.where(rollouts.mask, logps, 0).sum(1) / rollouts.mask.sum(1)

    before = per_token()
    record = trainer.step()
    change = per_token() - before
    assert record["reward"] == pytest.approx(float(rewarded.float().mean()))
    assert 0 < record["ess"] <= 1 and record["kl_k3"] > 0
    assert change[rewarded].mean() > 0 and change[rewarded].mean() > change[~rewarded].mean()
