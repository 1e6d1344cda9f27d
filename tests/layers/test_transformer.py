"""Attention and transformer against torch's modules, the definition, and what must not change the answer."""

import math

import pytest
import torch
from torch import nn

from densekit.layers.attention import MultiheadAttention
from densekit.layers.position_encoding import LearnedPositionEncoding, SinePositionEncoding
from densekit.layers.transformer import Transformer, TransformerDecoderLayer, TransformerEncoderLayer
from tests.tolerances import close

N, L, S, D, HEADS = 2, 5, 7, 16, 4


@pytest.fixture
def pair():
    """Ours and torch's attention with one set of weights."""
    ours = MultiheadAttention(D, HEADS).double()
    theirs = nn.MultiheadAttention(D, HEADS, batch_first=True).double()
    nn.init.normal_(ours.in_proj_bias)
    nn.init.normal_(ours.out_proj.bias)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.fixture
def inputs():
    return torch.randn(N, L, D).double(), torch.randn(N, S, D).double(), torch.randn(N, S, D).double()


def test_attention_equals_torchs(pair, inputs):
    ours, theirs = pair
    padding = torch.zeros(N, S, dtype=torch.bool)
    padding[1, 4:] = True
    expected, weights = theirs(*inputs, key_padding_mask=padding, average_attn_weights=False)
    visible = ~padding[:, None, None]
    torch.testing.assert_close(ours(*inputs, attn_mask=visible), expected, **close(torch.float64))
    torch.testing.assert_close(ours.weights(*inputs[:2], attn_mask=visible), weights, **close(torch.float64))


def test_self_attention_equals_torchs(pair, inputs):
    ours, theirs = pair
    x = inputs[0]
    torch.testing.assert_close(ours(x, x, x + 1), theirs(x, x, x + 1)[0], **close(torch.float64))


def test_attention_has_the_right_gradient(inputs):
    attention = MultiheadAttention(D, HEADS).double()
    query, key, value = (x.requires_grad_() for x in inputs)
    assert torch.autograd.gradcheck(lambda q, k, v: attention(q, k, v), (query, key, value))


def test_width_must_fit_the_heads():
    with pytest.raises(ValueError, match="16 cannot be divided among 3 heads"):
        MultiheadAttention(16, 3)


def test_sine_positions_follow_their_definition():
    mask = torch.zeros(1, 3, 4, dtype=torch.bool)
    mask[:, 2:] = True
    mask[:, :, 3:] = True
    encoded = SinePositionEncoding(8)(mask)
    for y in range(2):
        for x in range(3):
            for place, (count, total) in enumerate(((y + 1, 2), (x + 1, 3))):
                angle = count / total * 2 * math.pi
                expected = []
                for wavelength in (1.0, 100.0):  # 10000 ** 0 and 10000 ** (2 / 4)
                    expected += [math.sin(angle / wavelength), math.cos(angle / wavelength)]
                found = encoded[0, 4 * place : 4 * place + 4, y, x]
                torch.testing.assert_close(found, torch.tensor(expected), **close(torch.float32))


def test_learned_positions_hold_columns_then_rows_and_refuse_large_maps():
    encoding = LearnedPositionEncoding(8, max_size=6)
    encoded = encoding(torch.zeros(2, 3, 5, dtype=torch.bool))
    assert encoded.shape == (2, 8, 3, 5)
    torch.testing.assert_close(encoded[1, :4, 2, 4], encoding.col_embed.weight[4])
    torch.testing.assert_close(encoded[1, 4:, 2, 4], encoding.row_embed.weight[2])
    with pytest.raises(ValueError, match="3 x 7"):
        encoding(torch.zeros(1, 3, 7, dtype=torch.bool))


def test_post_norm_layer_equals_torchs():
    ours = TransformerEncoderLayer(D, HEADS, ffn_dim=32, dropout=0.0).double()
    theirs = nn.TransformerEncoderLayer(D, HEADS, 32, dropout=0.0, batch_first=True).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(N, L, D).double()
    torch.testing.assert_close(ours(x, torch.zeros(1, L, D).double()), theirs(x), **close(torch.float64))


@pytest.mark.parametrize("pre_norm", [False, True])
def test_decoder_layer_equals_torchs_where_positions_are_zero(pre_norm):
    ours = TransformerDecoderLayer(D, HEADS, ffn_dim=32, dropout=0.0, pre_norm=pre_norm).double()
    theirs = nn.TransformerDecoderLayer(D, HEADS, 32, dropout=0.0, batch_first=True, norm_first=pre_norm).double()
    theirs.load_state_dict(ours.state_dict())
    x, memory = torch.randn(N, L, D).double(), torch.randn(N, S, D).double()
    found = ours(x, memory, memory, torch.zeros(1, L, D).double())
    torch.testing.assert_close(found, theirs(x, memory), **close(torch.float64))


@pytest.fixture(params=[False, True], ids=["post-norm", "pre-norm"])
def transformer(request):
    return Transformer(
        embed_dim=D,
        num_heads=HEADS,
        num_encoder_layers=2,
        num_decoder_layers=2,
        ffn_dim=32,
        dropout=0.0,
        pre_norm=request.param,
    ).double()


def features():
    return torch.randn(N, D, 3, 4).double(), torch.randn(6, D).double(), torch.randn(1, D, 3, 4).double()


def test_permuted_queries_permute_the_states(transformer):
    x, queries, positions = features()
    order = torch.randperm(len(queries))
    states, memory = transformer(x, None, queries, positions)
    permuted, _ = transformer(x, None, queries[order], positions)
    torch.testing.assert_close(permuted, states[:, :, order], **close(torch.float64))
    assert memory.shape == x.shape


def test_masked_cells_have_no_influence(transformer):
    x, queries, positions = features()
    mask = torch.zeros(N, 3, 4, dtype=torch.bool)
    mask[:, :, 3] = True
    cropped, _ = transformer(x[..., :3], None, queries, positions[..., :3])
    states, _ = transformer(x, mask, queries, positions)
    torch.testing.assert_close(states, cropped, **close(torch.float64))
    torch.testing.assert_close(transformer(x, mask, queries, positions, every_layer=False)[0], states[-1:])


def test_checkpointed_layers_have_the_same_gradients(transformer):
    x, queries, positions = features()
    again = Transformer(
        embed_dim=D,
        num_heads=HEADS,
        num_encoder_layers=2,
        num_decoder_layers=2,
        ffn_dim=32,
        dropout=0.0,
        pre_norm=transformer.encoder.norm is not None,
        checkpointed=True,
    ).double()
    again.load_state_dict(transformer.state_dict())
    for model in (transformer, again):
        model.train()
        model(x, None, queries, positions)[0].square().sum().backward()
    for (name, one), two in zip(transformer.named_parameters(), again.parameters()):
        torch.testing.assert_close(two.grad, one.grad, msg=lambda text, name=name: f"{name}: {text}")


def test_attention_of_a_layer_is_what_its_forward_uses(transformer):
    """Mixing the values by the returned weights gives the output of the attention inside the layer."""
    layer = transformer.decoder.layers[0]
    x, memory = torch.randn(N, L, D).double(), torch.randn(N, S, D).double()
    places = torch.randn(1, L, D).double()
    seen = {}
    layer.multihead_attn.register_forward_hook(lambda _, inputs, output: seen.update(inputs=inputs, output=output))
    layer(x, memory, memory + 1, places)
    weights = layer.attention(x, memory, memory + 1, places)
    attention = layer.multihead_attn
    values = nn.functional.linear(memory, attention.in_proj_weight[2 * D :], attention.in_proj_bias[2 * D :])
    mixed = weights @ values.unflatten(-1, (HEADS, -1)).transpose(1, 2)
    expected = attention.out_proj(mixed.transpose(1, 2).flatten(2))
    torch.testing.assert_close(seen["output"], expected, **close(torch.float64))


def test_a_decoder_is_needed():
    with pytest.raises(ValueError, match="without decoder layers"):
        Transformer(num_decoder_layers=0)
