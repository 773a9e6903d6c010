import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from psn_tutorial.errors import UserError
from psn_tutorial.models.decoder import empty_cache, forward

ARCHITECTURES = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
}


def small(architecture, **settings):
    """Grouped-query attention and a head size of its own: the cases a shortcut would get wrong."""
    made, model = ARCHITECTURES[architecture]
    torch.manual_seed(0)
    config = made(
        vocab_size=17,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **settings,
    )
    model = model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))  # norms and biases too leave their defaults
    return model


# Which layers see only the last 4 tokens: all, or of the two the second.
WINDOWS = {
    f"{name} {kind}": (name, {"use_sliding_window": True, "sliding_window": 4, **layers})
    for name in ("qwen2", "qwen3")
    for kind, layers in (
        ("window", {"max_window_layers": 0}),
        ("half a window", {"layer_types": ["full_attention", "sliding_attention"]}),
    )
}


@pytest.fixture(params=[*ARCHITECTURES, *WINDOWS])
def model(request):
    name, settings = WINDOWS.get(request.param, (request.param, {}))
    return small(name, **settings)


@pytest.fixture
def ids():
    return torch.randint(3, 17, (5, 11), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def padding(ids):
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, :4] = False
    mask[3, :2] = False
    return mask


def reference(model, ids, mask):
    positions = (mask.long().cumsum(1) - 1).clamp_min(0)
    with torch.no_grad():
        return model(ids, attention_mask=mask.long(), position_ids=positions).logits


def test_logits_are_those_of_transformers(model, ids):
    with torch.no_grad():
        torch.testing.assert_close(forward(model, ids), model(ids).logits, atol=1e-5, rtol=1e-5)


def test_left_padding_changes_nothing(model, ids, padding):
    with torch.no_grad():
        ours = forward(model, ids, padding)
        alone = forward(model, ids[1:2, 4:])
    assert ours.isfinite().all()
    torch.testing.assert_close(ours[padding], reference(model, ids, padding)[padding], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours[1:2, 4:], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [1, 10, 11, 12])
@torch.no_grad()
def test_a_window_of_any_width_is_that_of_transformers(ids, padding, window):
    model = small("qwen2", use_sliding_window=True, sliding_window=window, max_window_layers=0)
    torch.testing.assert_close(forward(model, ids), model(ids).logits, atol=1e-5, rtol=1e-5)
    expected = reference(model, ids, padding)[padding]
    torch.testing.assert_close(forward(model, ids, padding)[padding], expected, atol=1e-5, rtol=1e-5)


ROPES = {
    "linear": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "dynamic": {"factor": 4.0},
    "longrope": {"short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "original_max_position_embeddings": 64},
}


@pytest.mark.parametrize("kind", ROPES)
@torch.no_grad()
def test_positions_are_scaled_as_transformers_scales_them(kind):
    """Up to where the scaling begins to change with the length: there transformers turns old keys anew, or does not."""
    model = small("llama", rope_parameters={"rope_type": kind, "rope_theta": 100.0, **ROPES[kind]})
    ids = torch.randint(3, 17, (2, 65), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(forward(model, ids[:, :64]), model(ids[:, :64]).logits, atol=1e-5, rtol=1e-5)
    if kind not in ("dynamic", "longrope"):
        torch.testing.assert_close(forward(model, ids), model(ids).logits, atol=1e-5, rtol=1e-5)
        return
    with pytest.raises(UserError, match=f"must have <= 64 tokens together.*{kind}.*got 65"):
        forward(model, ids)


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_the_cache_reads_on_where_it_stopped(model, ids, padding, padded):
    mask = padding if padded else torch.ones_like(padding)
    cache = empty_cache(model, 5, 11, mask[:, :6] if padded else None)
    pieces = [forward(model, ids[:, a:b], cache=cache) for a, b in ((0, 6), (6, 8), (8, 9), (9, 10), (10, 11))]
    torch.testing.assert_close(torch.cat(pieces, 1)[mask], forward(model, ids, mask)[mask], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
def test_continuations_share_a_reading_and_its_gradient(model, ids, padding, padded):
    """Rows of a selected cache come in any order and number; every row is as if it had been read alone."""
    mask = padding[:, :6] if padded else torch.ones(5, 6, dtype=torch.bool)
    rows = torch.tensor([3, 0, 3, 1, 4, 4])
    after = torch.randint(3, 17, (6, 4), generator=torch.Generator().manual_seed(2))

    def gradients(logits):
        model.zero_grad()
        logits.logsumexp(-1).sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    def shared():
        cache = empty_cache(model, 5, 10, mask)
        forward(model, ids[:, :6], cache=cache)
        chosen = cache.select(rows)
        pieces = [forward(model, after[:, :3], cache=chosen), forward(model, after[:, 3:], cache=chosen)]
        return torch.cat(pieces, 1), forward(model, ids[:, 6:7], cache=cache)  # the original still serves

    whole = forward(model, torch.cat([ids[rows, :6], after], 1), torch.cat([mask[rows], torch.ones(6, 4)], 1), last=4)
    six = forward(model, ids[:, :7], torch.cat([mask, torch.ones(5, 1)], 1), last=1)
    with torch.no_grad():  # keys and values are written in place
        for ours, expected in zip(shared(), (whole, six), strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    ours, theirs = gradients(shared()[0]), gradients(whole)
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_cache_serves_half_precision(model, ids, padding):
    model.bfloat16()
    cache = empty_cache(model, 5, 11, padding[:, :6])
    pieces = [forward(model, ids[:, a:b], cache=cache) for a, b in ((0, 6), (6, 10), (10, 11))]
    assert pieces[0].dtype == torch.bfloat16
    whole = forward(model, ids, padding)
    torch.testing.assert_close(torch.cat(pieces, 1)[padding], whole[padding], atol=0.05, rtol=0.05)


@pytest.mark.parametrize("last", [1, 3, 11])
@torch.no_grad()
def test_last_returns_the_last_positions(model, ids, padding, last):
    torch.testing.assert_close(forward(model, ids, last=last), forward(model, ids)[:, -last:])
    padded = forward(model, ids, padding)[:, -last:]
    torch.testing.assert_close(forward(model, ids, padding, last=last)[padding[:, -last:]], padded[padding[:, -last:]])


def test_gradients_are_those_of_transformers(model, ids):
    def gradients(logits):
        model.zero_grad()
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    ours, theirs = gradients(forward(model, ids)), gradients(model(ids).logits)
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=1e-4)


def test_what_backward_keeps_grows_linearly_with_tokens(model):
    def kept_bytes(rows, length):
        sizes = {}

        def note(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = forward(model, torch.ones(rows, length, dtype=torch.long)).logsumexp(-1).sum()
        total = sum(size for pointer, size in sizes.items() if pointer not in weights)
        loss.backward()
        return total

    few = kept_bytes(4, 16)
    assert 1.8 < kept_bytes(8, 16) / few < 2.1
    assert 1.8 < kept_bytes(4, 32) / few < 2.1


def test_other_architectures_are_refused():
    other = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(UserError, match="model type must be one of qwen2, qwen3, llama, got 'gpt2'"):
        forward(other, torch.ones(1, 2, dtype=torch.long))
