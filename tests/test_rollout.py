from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from psn_tutorial import rollout
from psn_tutorial.carriers import carried
from psn_tutorial.errors import UserError
from psn_tutorial.models.bases import base_folder
from psn_tutorial.models.decoder import forward
from psn_tutorial.models.policy import Policy, encode
from psn_tutorial.models.tiny import load
from psn_tutorial.noise import NoiseConfig, on_head_alone, perturbed, stacked, stream
from psn_tutorial.rollout import (
    choose,
    completion_logits,
    completion_logps,
    read_completions,
    responses,
    sample,
    spread_draws,
)
from psn_tutorial.tasks import get_task
from tests.models.test_decoder import WINDOWS, small


def roll(policy_parts, group=6, max_tokens=10, prompts=None, seed=0, **options):
    task, tokenizer, model = policy_parts
    problems = task.generate(0, 4)
    asked = encode(tokenizer, prompts or [task.prompt(problem) for problem in problems])
    return sample(Policy(model, tokenizer), asked, group, max_tokens, stream(seed, "test"), **options)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.9])
@pytest.mark.parametrize("draws", [None, 1, 2, 3, 6])
@torch.no_grad()
def test_logps_are_those_of_the_policy_that_sampled(policy, draws, temperature):
    """Row by row: each rollout under exactly its own draw, at the temperature it was sampled with."""
    parts = policy()
    noise = draws and NoiseConfig(0.2, "all", relative=True)
    spread = draws and spread_draws(4, 6, draws, "pooled") + 10
    rollouts = roll(parts, noise=noise, draws=spread, temperature=temperature)
    assert rollouts.draws.unique().tolist() == ([-1] if draws is None else list(range(10, 10 + draws)))
    assert rollouts.temperature == temperature and (rollouts.receipt is None) == (draws is None)
    for draw in rollouts.draws.unique().tolist():
        rows = (rollouts.draws == draw).nonzero()[:, 0]
        with perturbed(parts[2], noise or NoiseConfig(0.0), draw):
            expected, _ = completion_logps(parts[2], rollouts, rows, temperature)
        mask = rollouts.mask[rows]
        torch.testing.assert_close(rollouts.logps[rows][mask], expected[mask], atol=1e-4, rtol=1e-4)
    assert (rollouts.logps[~rollouts.mask] == 0).all()


def test_noise_of_size_zero_is_the_clean_policy(policy):
    clean, still = roll(policy()), roll(policy(), noise=NoiseConfig(0.0, "all"), draws=spread_draws(4, 6, 3, "pooled"))
    assert still.receipt is None and still.draws.tolist() == [-1] * 24
    assert torch.equal(still.tokens, clean.tokens) and torch.equal(still.logps, clean.logps)


def test_noise_without_draws_is_one_draw_for_all(policy):
    noise = NoiseConfig(0.2, "all", relative=True)
    alone, named = roll(policy(), noise=noise), roll(policy(), noise=noise, draws=torch.zeros(4, 6, dtype=torch.long))
    assert alone.draws.tolist() == [0] * 24 and alone.receipt == named.receipt
    assert torch.equal(alone.tokens, named.tokens) and not torch.equal(alone.tokens, roll(policy()).tokens)


@torch.no_grad()
def test_completion_logps_are_read_at_the_right_places(policy):
    """Against transformers, one row at a time, without padding: a shift by one would show."""
    task, tokenizer, model = parts = policy()
    rollouts = roll(parts, prompts=["1 2 3 :", "4 :", "5 6 :", "7 8 9 0 :"], temperature=1.3)
    logps, entropy = completion_logps(model, rollouts, torch.arange(24), 1.3, "value")
    for b in range(0, 24, 5):
        prompt = rollouts.prompts[b][rollouts.prompt_mask[b]]
        ids = torch.cat([prompt, rollouts.tokens[b]])[None]
        distribution = (model(ids).logits[0] / 1.3).log_softmax(-1)[len(prompt) - 1 : -1]
        expected = distribution.gather(1, rollouts.tokens[b][:, None])[:, 0]
        torch.testing.assert_close(logps[b], expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(entropy[b], -(distribution.exp() * distribution).sum(-1), atol=1e-4, rtol=1e-4)


def test_completion_logps_of_any_rows_with_their_gradient(policy):
    """Against one forward pass that shares nothing between the rows."""
    parts = policy()
    model = parts[2]
    rollouts = roll(parts, prompts=["1 2 3 :", "4 :", "5 6 :", "7 8 9 0 :"])
    rows = torch.tensor([7, 6, 20, 8, 0, 0, 23])

    def gradients(logps):
        model.zero_grad()
        (logps * rollouts.mask[rows]).sum().backward()
        return [p.grad.clone() for p in model.parameters()]

    ids = torch.cat([rollouts.prompts, rollouts.tokens], 1)[rows]
    mask = torch.cat([rollouts.prompt_mask[rows], torch.ones_like(rollouts.mask[rows])], 1)
    logits = forward(model, ids[:, :-1], mask[:, :-1], last=10)
    plain = (logits / 1.3).log_softmax(-1).gather(2, rollouts.tokens[rows][..., None])[..., 0]
    ours, _ = completion_logps(model, rollouts, rows, 1.3)
    torch.testing.assert_close(ours, plain * rollouts.mask[rows], atol=1e-4, rtol=1e-4)
    for mine, expected in zip(gradients(ours), gradients(plain), strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-4, rtol=1e-4)
    assert completion_logps(model, rollouts, rows[:0], 1.3)[0].shape == (0, 10)


@pytest.mark.parametrize("rows", [[0, 1, 2], [5, 6, 18, 7], [9]])
@torch.no_grad()
def test_completion_logps_under_several_draws(policy, rows):
    parts, noise, rows = policy(), NoiseConfig(0.2, "all", relative=True), torch.tensor(rows)
    rollouts = roll(parts, prompts=["1 2 3 :", "4 :", "5 6 :", "7 8 9 0 :"])
    with stacked(parts[2], noise, [4, 2, 9]):
        together, entropy = completion_logps(parts[2], rollouts, rows, 1.0, "value", draws=3)
    assert together.shape == entropy.shape == (3 * len(rows), 10)
    for block, draw in zip(together.split(len(rows)), [4, 2, 9], strict=True):
        with perturbed(parts[2], noise, draw):
            expected, _ = completion_logps(parts[2], rollouts, rows, 1.0)
        torch.testing.assert_close(block, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("targets", "tied", "alone"),
    [
        ("head", False, True),
        ("lm_head", False, True),
        ("head", True, False),
        ("mlp", False, False),
        ("all", False, False),
    ],
)
@torch.no_grad()
def test_under_noise_on_the_head_alone_the_layers_read_once(policy, monkeypatch, targets, tied, alone):
    parts = policy(sizes={"tied": tied})
    rollouts, rows, noise = roll(parts), torch.tensor([5, 6, 18, 7]), NoiseConfig(0.5, targets, relative=True)
    assert on_head_alone(parts[2], noise) is alone
    shapes = watched_shapes(monkeypatch)
    with stacked(parts[2], noise, [4, 2, 9]):
        together, _ = completion_logps(parts[2], rollouts, rows, 0.7, draws=3, same_states=alone)
    assert shapes[-1][0] == (4 if alone else 12)
    for block, draw in zip(together.split(len(rows)), [4, 2, 9], strict=True):
        with perturbed(parts[2], noise, draw):
            expected, _ = completion_logps(parts[2], rollouts, rows, 0.7)
        torch.testing.assert_close(block, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_half_precision_logits_are_read_in_float32(policy):
    _, _, model = parts = policy()
    rollouts, rows = roll(parts), torch.arange(24)
    model.bfloat16()
    reading = read_completions(model, rollouts, rows, 1.3, "value", "policy_to_uniform")
    assert {reading.logps.dtype, reading.entropy.dtype, reading.certainty.dtype} == {torch.float32}
    exact = completion_logits(model, rollouts, rows, 1.0).double().div(1.3).log_softmax(-1)
    chosen = exact.gather(2, rollouts.tokens[..., None])[..., 0]
    torch.testing.assert_close(reading.logps.double(), chosen * rollouts.mask, rtol=0, atol=1e-5)


@torch.no_grad()
def test_completions_of_one_token(policy):
    rollouts = roll(parts := policy(), max_tokens=1)
    again, _ = completion_logps(parts[2], rollouts, torch.arange(24), 1.0)
    torch.testing.assert_close(again, rollouts.logps, atol=1e-4, rtol=1e-4)


def watched_shapes(monkeypatch):
    """The shapes of all token ids that are read from now on."""
    shapes = []
    for name in ("forward", "hidden_states"):
        read = getattr(rollout, name)
        watched = lambda model, ids, read=read, **rest: shapes.append(tuple(ids.shape)) or read(model, ids, **rest)  # noqa: E731
        monkeypatch.setattr(rollout, name, watched)
    return shapes


@pytest.mark.parametrize("draws", [None, 1, 3])
@pytest.mark.parametrize("beginning", ["2 3 5 7 9", "", "2 3 5 7 9 9 3 0"])
def test_a_beginning_that_all_prompts_share_is_read_once_a_draw(policy, monkeypatch, draws, beginning):
    """Prompts of different lengths, one of which is hardly longer than the beginning: tokens, log-probs and gradients
    are those of prompts that are read whole."""
    prompts = [f"{beginning} {rest}".strip() for rest in ("1", "4 2 3", "6 7 0 4 1", "8 2")]
    noise, spread = draws and NoiseConfig(0.2, "all", relative=True), draws and spread_draws(4, 6, draws, "pooled")
    shared, found = 1 + len(beginning.split()), []  # one token begins every text
    for worth in (10**6, 3):
        monkeypatch.setattr(rollout, "WORTH_SHARING", worth)
        _, _, model = parts = policy(scale=0.3)
        with monkeypatch.context() as patch:
            shapes = watched_shapes(patch)
            rollouts = roll(parts, prompts=prompts, noise=noise, draws=spread)
            assert ((draws or 1, shared) in shapes) == (shared >= worth)
        with carried(model, noise, range(draws)) if noise else nullcontext():
            logps, _ = completion_logps(model, rollouts, torch.arange(24), 1.0, draws=draws or 1)
            if draws is None:  # the noisy sampler is read without gradients
                logps[:, 0].sum().backward(retain_graph=True)  # through the prompt alone
                logps.square().sum().backward()
        found.append((rollouts, logps, {name: p.grad for name, p in model.named_parameters()}))
    (whole, whole_logps, expected), (parted, parted_logps, gradients) = found
    assert torch.equal(whole.tokens, parted.tokens) and torch.equal(whole.prompts, parted.prompts)
    torch.testing.assert_close(parted.logps, whole.logps, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(parted_logps, whole_logps, atol=1e-4, rtol=1e-4)
    for name, gradient in gradients.items() if draws is None else ():
        torch.testing.assert_close(gradient, expected[name], atol=1e-3, rtol=1e-3, msg=name)


@torch.no_grad()
def test_windows_that_see_so_many_positions_back_are_not_spoiled(monkeypatch):
    """Padding between a shared beginning and the rest would stand in the windows."""
    monkeypatch.setattr(rollout, "WORTH_SHARING", 2)
    prompts = torch.tensor([[3, 4, 5, 6, 7, 8, 9], [0, 0, 0, 3, 4, 5, 6], [0, 3, 4, 5, 6, 7, 11]])
    tokens = torch.randint(3, 17, (3, 5), generator=stream(0))
    yes, nowhere = torch.ones_like(tokens, dtype=torch.bool), torch.full((3,), -1)
    shown = rollout.Rollouts(prompts, prompts > 0, tokens, yes, torch.zeros(3, 5), nowhere, None)
    for name, (architecture, settings) in {**WINDOWS, "none": ("qwen3", {})}.items():
        model = small(architecture, **settings)
        shapes = watched_shapes(monkeypatch)
        logps, _ = completion_logps(model, shown, torch.arange(3), 1.0)
        assert ((1, 3) in shapes) == (name == "none")
        for row in range(3):
            ids = torch.cat([prompts[row][prompts[row] > 0], tokens[row]])[None]
            expected = model(ids).logits[0, -6:-1].log_softmax(-1).gather(1, tokens[row][:, None])[:, 0]
            torch.testing.assert_close(logps[row], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("draws", "readings"), [(None, 4), (1, 4), (3, 12), (6, 24)])
def test_a_prompt_is_read_once_a_draw_and_nothing_is_computed_beyond_the_last_end(policy, monkeypatch, draws, readings):
    shapes, longest = watched_shapes(monkeypatch), []
    noise, spread = draws and NoiseConfig(0.1, "all"), draws and spread_draws(4, 6, draws, "pooled")
    for seed in range(16):
        shapes.clear()
        rollouts = roll(policy(scale=1.0), max_tokens=55, noise=noise, draws=spread, seed=seed)  # near uniform
        (first, _), *later = shapes
        lengths = rollouts.mask.sum(1)
        going = [int((lengths > t).sum()) for t in range(1, len(shapes))]  # rows that have not ended before token t
        assert first == readings and all(
            new == 1 and rows >= left for (rows, new), left in zip(later, going, strict=True)
        )
        if draws in (None, 1):
            assert all(3 * rows < 4 * left for (rows, _), left in zip(later, going, strict=True))
        longest.append(int(lengths.max()))
        assert len(shapes) == longest[-1]
    assert min(longest) < 55


def test_without_ends_every_token_counts(policy):
    _, tokenizer, _ = parts = policy(scale=2.0)  # near uniform: every token of the vocabulary is sampled
    rollouts = roll(parts, group=32, ends=False)
    assert rollouts.mask.all() and (rollouts.logps < 0).all()
    assert {tokenizer.eos_token_id, tokenizer.pad_token_id} < set(rollouts.tokens.flatten().tolist())


def test_the_mask_ends_with_the_first_end_token(policy):
    _, tokenizer, _ = parts = policy(scale=2.0)  # near uniform: end tokens are frequent
    rollouts = roll(parts, group=32)
    for tokens, mask in zip(rollouts.tokens.tolist(), rollouts.mask.tolist(), strict=True):
        length = tokens.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in tokens else len(tokens)
        assert mask == [True] * length + [False] * (len(tokens) - length)
        assert tokens[length:] == [tokenizer.pad_token_id] * (len(tokens) - length)
    assert 0 < rollouts.mask.float().mean() < 1
    texts = responses(tokenizer, rollouts)
    first = rollouts.tokens[0][rollouts.mask[0]].tolist()
    words = [w for w in tokenizer.convert_ids_to_tokens(first) if not w.startswith("<")]
    assert texts[0] == " ".join(words)


@pytest.mark.parametrize(("draws", "spread"), [(1, "pooled"), (2, "pooled"), (12, "pooled"), (4, "per_group")])
@torch.no_grad()
def test_rollouts_stand_in_prompt_order_whatever_the_draws(policy, draws, spread):
    """At temperature ~0 each rollout is the greedy answer of its own prompt under its own draw."""
    parts = policy()
    noise = NoiseConfig(0.3, "all", relative=True)
    prompts = ["1 2 3 :", "4 :", "5 6 :", "7 8 9 0 :"]
    plan = spread_draws(4, 6, draws, spread)
    rollouts = roll(parts, prompts=prompts, noise=noise, draws=plan, temperature=1e-4)
    for b in range(24):
        with perturbed(parts[2], noise, int(plan.flatten()[b])):
            ids, mask = encode(parts[1], [prompts[b // 6]])
            for token in rollouts.tokens[b][rollouts.mask[b]]:
                assert forward(parts[2], ids, mask, last=1)[0, -1].argmax() == token
                ids, mask = torch.cat([ids, token[None, None]], 1), torch.ones(1, ids.shape[1] + 1, dtype=torch.bool)


def test_the_model_is_clean_before_and_after(policy):
    _, _, model = parts = policy()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for draws in (1, 3):
        roll(parts, noise=NoiseConfig(0.3), draws=spread_draws(4, 6, draws, "pooled"))
        assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_the_same_stream_gives_the_same_rollouts(policy):
    parts = policy()
    a, b, other = roll(parts, seed=3), roll(parts, seed=3), roll(parts, seed=4)
    assert torch.equal(a.tokens, b.tokens) and torch.equal(a.logps, b.logps)
    assert not torch.equal(a.tokens, other.tokens)


def test_choose_samples_the_softmax_at_its_temperature():
    logits = torch.tensor([0.0, 1.0, -2.0, 3.0, -torch.inf, 0.5])
    uniform = torch.rand(40_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ids, logps = choose(logits.repeat(40_000, 1), 2.0, uniform)
    expected = (logits / 2).softmax(-1)
    observed = ids.bincount(minlength=6)
    assert observed[4] == 0
    kept = [0, 1, 2, 3, 5]
    assert (
        stats.chisquare(observed[kept], 40_000 * expected[kept].double() / expected[kept].double().sum()).pvalue > 0.01
    )
    torch.testing.assert_close(logps, expected.log()[ids])


@given(st.integers(1, 8), st.integers(1, 8), st.data())
def test_draws_are_spread_evenly(prompts, group, data):
    draws = data.draw(st.sampled_from([d for d in range(1, prompts * group + 1) if (prompts * group) % d == 0]))
    pooled = spread_draws(prompts, group, draws, "pooled")
    assert (pooled.flatten().bincount(minlength=draws) == prompts * group // draws).all()
    if draws <= group:  # several perturbations inside every group
        assert all(len(row.unique()) == draws for row in pooled) or group % draws
    if prompts % draws == 0:
        per_group = spread_draws(prompts, group, draws, "per_group")
        assert (per_group == per_group[:, :1]).all()
        assert (per_group[:, 0].bincount(minlength=draws) == prompts // draws).all()


def test_random_streams_differ_by_purpose_and_step():
    numbers = [
        torch.rand(4, generator=stream(*key)).tolist()
        for key in ((0, "a", 1), (0, "a", 2), (0, "b", 1), (2**32, "a", 1))
    ]
    assert len({tuple(n) for n in numbers}) == 4
    assert torch.equal(torch.rand(4, generator=stream(0, "a", 1)), torch.tensor(numbers[0]))


def test_mistakes_are_told_in_a_sentence(policy):
    with pytest.raises(UserError, match="temperature must be > 0, got 0"):
        roll(policy(), temperature=0)
    with pytest.raises(UserError, match="draws must divide the 24 rollouts of a step, got 5"):
        spread_draws(4, 6, 5, "pooled")
    with pytest.raises(UserError, match="draws must divide the 4 prompts of a step when spread is 'per_group', got 3"):
        spread_draws(4, 6, 3, "per_group")
    with pytest.raises(UserError, match="spread must be one of pooled, per_group, got 'all'"):
        spread_draws(4, 6, 1, "all")
    with pytest.raises(UserError, match="every draw must serve equally many rollouts"):
        roll(policy(), noise=NoiseConfig(0.1), draws=torch.tensor([[0] * 6] * 3 + [[1] * 6]))


@pytest.mark.parametrize("entropy", ["value", "gradient"])
def test_logits_in_pieces_are_the_same_reading_with_the_same_gradient(policy, monkeypatch, entropy):
    """Of a large vocabulary the logits are made piece by piece, and again for the backward pass."""
    parts = policy()
    model, rollouts, rows, seen = parts[2], roll(parts), torch.arange(24), {}
    for limit in (2**26, 700):
        monkeypatch.setattr("psn_tutorial.rollout.LOGITS", limit)
        reading = read_completions(model, rollouts, rows, 1.3, entropy, "policy_to_uniform")
        loss = (reading.logps * rollouts.mask).sum()
        if entropy == "gradient":
            loss = loss + 0.7 * (reading.entropy * rollouts.mask).sum()
        gradient = torch.autograd.grad(loss, list(model.parameters()))
        seen[limit] = [reading.logps, reading.entropy, reading.certainty, *gradient]
    for whole, pieces in zip(*seen.values(), strict=True):
        torch.testing.assert_close(pieces, whole, rtol=1e-4, atol=1e-5)


def test_large_logits_never_exist_at_once(policy, monkeypatch):
    """What the backward pass keeps, counted by autograd's own hooks."""
    parts = policy()
    rollouts, rows, kept = roll(parts), torch.arange(24), {}
    for name, limit, recompute in (("whole", 2**26, False), ("pieces", 700, False), ("layers too", 700, True)):
        monkeypatch.setattr("psn_tutorial.rollout.LOGITS", limit)
        numbers = []
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t, to=numbers: to.append(t.numel()) or t, lambda t: t)
        with hooks:
            read_completions(parts[2], rollouts, rows, 1.0, recompute=recompute)
        kept[name] = sum(numbers)
    assert kept["layers too"] < 0.5 * kept["pieces"] < 0.5 * kept["whole"]


@pytest.mark.parametrize("limit", [2**26, 700])
def test_the_head_reads_what_is_under_the_mask_in_whole_products(policy, monkeypatch, limit):
    """A row for each completion token, no padding; contiguous, or torch would multiply with a copy of the head per row;
    and the layers read no further than the longest of the rows."""
    monkeypatch.setattr("psn_tutorial.rollout.LOGITS", limit)
    _, _, model = parts = policy(scale=1.0)  # near uniform: answers end early
    rollouts = roll(parts, max_tokens=40)
    rows = rollouts.mask.sum(1).argsort()[:9]
    longest = int(rollouts.mask[rows].sum(1).max())
    assert longest < rollouts.tokens.shape[1] and not rollouts.mask[rows, :longest].all()
    read = []
    monkeypatch.setattr(model.lm_head, "forward", lambda x, forward=model.lm_head.forward: read.append(x) or forward(x))
    shapes = watched_shapes(monkeypatch)
    with torch.no_grad():
        reading = read_completions(model, rollouts, rows, 1.0)
    assert sum(len(x) for x in read) == int(rollouts.mask[rows].sum())
    assert all(x.dim() == 2 and x.is_contiguous() and x.shape[0] * 16 <= max(limit, 16) for x in read)
    assert shapes[-1] == (9, longest - 1)
    assert (reading.logps[~rollouts.mask[rows]] == 0).all() and (reading.logps[rollouts.mask[rows]] < 0).all()


# Rows that have ended


@pytest.mark.parametrize(
    ("ended", "blocks", "going"),
    [
        ([0, 0, 0, 1], 1, [0, 1, 2]),
        ([0, 0, 0, 0, 1], 1, None),  # a fifth is too few to be worth a copy
        ([1, 0, 1, 0], 1, [1, 3]),
        ([1, 1, 1, 0], 2, [0, 3]),  # the first draw's rows have all ended, and one stays
        ([1, 0, 0, 0], 2, None),  # the second draw goes on with both
        ([0, 1, 1, 1, 1, 1, 0, 0], 2, [0, 1, 6, 7]),
    ],
)
def test_the_rows_that_go_on(ended, blocks, going):
    found = rollout._going_on(torch.tensor(ended, dtype=torch.bool), blocks)
    assert (found if found is None else found.tolist()) == going


@pytest.mark.parametrize("noise", [None, NoiseConfig(0.05, "mlp"), NoiseConfig(0.05, "mlp", carrier="lowrank", rank=2)])
def test_that_rows_leave_changes_no_rollout_and_saves_their_work(noise, monkeypatch):
    """The shipped base of Countdown, whose answers differ in length; prompts of two lengths, two draws."""
    policy, task = load(base_folder("countdown")), get_task("countdown")
    problems = task.generate(0, 4) + get_task("countdown", numbers=3).generate(0, 4)
    prompts = encode(policy.tokenizer, [task.prompt(problem) for problem in problems])
    assert not prompts.mask.all()
    draws = torch.arange(8 * 8).view(8, 8) % 2 if noise else None
    asked, found = [], []
    monkeypatch.setattr(rollout, "forward", lambda model, ids, **k: asked.append(len(ids)) or forward(model, ids, **k))
    for going_on in (rollout._going_on, lambda ended, blocks: None):
        monkeypatch.setattr(rollout, "_going_on", going_on)
        asked.append(0)
        found.append(sample(policy, prompts, 8, 24, stream(0, "leave"), noise=noise, draws=draws))
    cut = len(asked) - asked[::-1].index(0) - 1
    some, all_rows = found
    assert torch.equal(some.tokens, all_rows.tokens) and torch.equal(some.mask, all_rows.mask)
    torch.testing.assert_close(some.logps, all_rows.logps, atol=1e-4, rtol=0)
    assert (
        sum(asked[:cut]) < 0.9 * sum(asked[cut:]) and asked[cut - 1] <= 48 and all_rows.mask.sum(1).unique().numel() > 2
    )
