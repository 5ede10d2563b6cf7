"""A Hugging Face encoder, explained by words: masks, padding, special tokens, pieces of words."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from fastxai import KernelShap, LayerIntegratedGradients, Lime

from ..oracles import brute_force, every_coalition

PAD, CLS, SEP, MASK = 0, 1, 2, 3
# Sentences of four words in four to seven pieces, and the word that each piece is of.
SENTENCES = [[5, 9, 11, 17], [8, 8, 21, 6, 13, 19, 7], [14, 5, 20, 10, 16]]
PIECES = [[0, 1, 2, 3], [0, 0, 1, 2, 2, 2, 3], [0, 1, 1, 2, 3]]
PLAYERS = 5  # the words and, together, the special tokens
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


class Judge(nn.Module):
    """Logits [B, 3] of a small BERT with random weights, in float64."""

    def __init__(self, attention: str):
        super().__init__()
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=24,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=12,
            num_labels=3,
            initializer_range=0.5,
            attn_implementation=attention,
        )
        self.bert = BertForSequenceClassification(config).double()
        self.eval()

    def forward(self, ids, mask):
        return self.bert(ids, attention_mask=mask).logits


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def judge(request):
    return Judge(request.param)


def batch(which=range(3)):
    """ids, attention mask, special tokens, words and baseline of these sentences, each [B, T]."""

    def padded(rows, filler):
        rows = [torch.tensor(row) for row in rows]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=filler)

    ids = padded([[CLS, *SENTENCES[i], SEP] for i in which], PAD)
    words = padded([[4, *PIECES[i], 4] for i in which], 4)
    special = words == 4
    return ids, (ids != PAD).long(), special, words, ids.where(special, MASK)


def by_path(judge, which=range(3), **options):
    ids, mask, _, _, baseline = batch(which)
    layer = judge.bert.bert.embeddings.word_embeddings
    explainer = LayerIntegratedGradients(judge, layer)
    return explainer.attribute(ids, baseline, 1, mask, **options)


def by_coalitions(judge, method, which=range(3), **options):
    ids, mask, _, words, baseline = batch(which)
    return method(judge).attribute(ids, baseline, 1, mask, words, seed=0, **options)


METHODS = {
    "path": by_path,
    "kernel shap": lambda *a: by_coalitions(a[0], KernelShap, *a[1:], n_samples=1 << PLAYERS),
    "lime": lambda *a: by_coalitions(a[0], Lime, *a[1:], n_samples=4096),
}


def test_integrated_gradients_add_up(judge):
    found, delta = by_path(judge, return_convergence_delta=True, n_steps=200)
    ids, mask, _, _, baseline = batch()
    with torch.no_grad():
        change = (judge(ids, mask) - judge(baseline, mask))[:, 1]
    assert found.shape == (*ids.shape, 16) and found.dtype == torch.float64
    torch.testing.assert_close(found.sum((1, 2)) - change, delta, **CLOSE)
    assert delta.abs().max() < 1e-6 * change.abs().min()


def test_integrated_gradients_equal_captum(judge):
    captum = pytest.importorskip("captum.attr")
    ids, mask, _, _, baseline = batch()
    theirs = captum.LayerIntegratedGradients(judge, judge.bert.bert.embeddings.word_embeddings)
    for target in (2, [0, 2, 1]):
        arguments = {"target": target, "additional_forward_args": mask, "n_steps": 20}
        ours = LayerIntegratedGradients(judge, judge.bert.bert.embeddings.word_embeddings)
        torch.testing.assert_close(
            ours.attribute(ids, baseline, **arguments),
            theirs.attribute(ids, baseline, **arguments),
            rtol=1e-5,  # Captum's step weights are of float32
            atol=1e-7,
        )


def test_kernel_shap_equals_shapley_values_by_counting(judge):
    found = by_coalitions(judge, KernelShap, n_samples=1 << PLAYERS, return_input_shape=False)
    ids, mask, _, words, baseline = batch()
    for i in range(3):
        kept = every_coalition(PLAYERS)[:, words[i]]
        with torch.no_grad():
            values = judge(ids[i].where(kept, baseline[i]), mask[i].expand_as(kept))[:, 1]
        torch.testing.assert_close(found[i], brute_force(values), **CLOSE)


@pytest.mark.parametrize("name", METHODS)
def test_special_tokens_get_nothing(judge, name):
    found = METHODS[name](judge)
    *_, special, _, _ = batch()
    per_token = found.abs() if found.dim() == 2 else found.abs().sum(2)
    # Lime's samples of 4096 leave a little to chance; the others are exact.
    tolerance = 0.02 * per_token.max() if name == "lime" else 1e-11
    assert per_token[special].max() < tolerance
    assert per_token[~special].max() > 0.1


@pytest.mark.parametrize("method", [KernelShap, Lime])
def test_rows_keep_special_tokens_and_words_whole(judge, method):
    rows, (ids, mask, special, words, baseline) = [], batch([1])

    def watched(ids, mask):
        rows.append((ids.clone(), mask.clone()))
        return judge(ids, mask)

    method(watched).attribute(ids, baseline, 1, mask, words, n_samples=20, seed=0)
    seen, masks = (torch.cat(parts) for parts in zip(*rows, strict=True))
    assert len(seen.unique(dim=0)) > 5 and (masks == mask).all()
    assert (seen[:, special[0]] == ids[special]).all()
    kept = seen == ids
    assert ((seen == baseline) | kept).all()
    for word in range(4):
        of_word = kept[:, words[0] == word]
        assert (of_word == of_word[:, :1]).all()


@pytest.mark.parametrize("name", METHODS)
def test_padding_makes_no_difference(judge, name):
    together = METHODS[name](judge)
    for i, sentence in enumerate(SENTENCES):
        alone = METHODS[name](judge, [i])
        length = len(sentence) + 2
        torch.testing.assert_close(together[i, :length], alone[0], **CLOSE)


def test_the_mask_does_make_a_difference(judge):
    ids, mask, _, _, baseline = batch()
    explainer = LayerIntegratedGradients(judge, judge.bert.bert.embeddings.word_embeddings)
    found, expected = (
        explainer.attribute(ids, baseline, 1, given) for given in (torch.ones_like(mask), mask)
    )
    torch.testing.assert_close(found[1], expected[1], **CLOSE)  # the longest: nothing is padding
    assert ((found - expected)[[0, 2]].abs().amax((1, 2)) > 1e-3).all()


def test_the_model_is_left_as_found(judge):
    for method in METHODS.values():
        method(judge)
    assert not judge.training
    assert all(p.grad is None and p.requires_grad for p in judge.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in judge.modules())
