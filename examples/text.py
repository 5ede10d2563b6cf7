"""Trains a small BERT on film reviews and colours words by what they do to its judgement.

``python examples/text.py --data vaderSentiment-3.3.2.tar.gz`` needs no network once it has that
file: ``pip download --no-deps --no-binary :all: vaderSentiment==3.3.2``. It holds sentences from
reviews and tweets with the mean of 10 to 20 people's ratings from −4 to 4, and as many people's
ratings of single words (Hutto and Gilbert 2014, MIT licence).
"""

from __future__ import annotations

import argparse
import html
import io
import tarfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import matplotlib
import torch
from tokenizers import BertWordPieceTokenizer, Encoding
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

import fastxai

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize

# Orange raises, blue lowers, as fastxai.plot has them.
SIGNS = LinearSegmentedColormap.from_list(
    "signs", ["#17406d", "#3182CE", "#f7f7f7", "#DD6B20", "#8a3a08"]
)
ARCHIVE = "vaderSentiment-3.3.2/"
HELD_OUT = 1000
CLEAR = 1.0  # a rating of at least so much for or against
WORDS, ENDINGS = 6000, 500  # that the tokenizer knows
LONGEST = 48  # tokens
EXPLAINED, SAMPLES = 80, 512


@dataclass(frozen=True)
class Sentence:
    text: str
    rating: float  # people's mean, from −4 (bad) to 4 (good)

    @property
    def label(self) -> int:
        return int(self.rating > 0)


def read(path: Path) -> tuple[list[Sentence], list[Sentence], dict[str, float]]:
    """Sentences to train on, film reviews held out, and people's ratings of words."""
    with tarfile.open(path) as archive:
        inner = archive.extractfile(ARCHIVE + "additional_resources/hutto_ICWSM_2014.tar.gz").read()
        lexicon = archive.extractfile(ARCHIVE + "vaderSentiment/vader_lexicon.txt").read().decode()
    with tarfile.open(fileobj=io.BytesIO(inner)) as data:

        def rated(name: str) -> Iterator[Sentence]:
            lines = data.extractfile(f"hutto_ICWSM_2014/{name}_GroundTruth.txt").read()
            for line in lines.decode(errors="replace").splitlines():
                _, rating, text = line.split("\t", 2)
                if abs(float(rating)) >= CLEAR:
                    text = html.unescape(text).replace("''", '"').strip()
                    yield Sentence(text, float(rating))

        films = list(rated("movieReviewSnippets"))
        others = [*rated("amazonReviewSnippets"), *rated("tweets")]
    Random(0).shuffle(films)
    words = (line.split("\t")[:2] for line in lexicon.splitlines())
    return films[HELD_OUT:] + others, films[:HELD_OUT], {w: float(r) for w, r in words}


@dataclass(frozen=True)
class Batch:
    """Sentences as the model takes them."""

    ids: Tensor  # [B, T] int64
    mask: Tensor  # [B, T] int64: 0 for padding
    special: Tensor  # [B, T] bool: [CLS], [SEP] and padding
    words: Tensor  # [B, T] int64: the word that a token is of; 0 for special tokens

    def without_words(self, mask_token: int) -> Tensor:
        """The baseline [B, T]: nothing but special tokens, as they are."""
        return self.ids.where(self.special, mask_token)


def tokenizer_for(sentences: Sequence[Sentence]) -> BertWordPieceTokenizer:
    """One that knows the most frequent words and endings, and all letters.

    The package's own way to train it breaks ties by chance.
    """
    plain = BertWordPieceTokenizer()
    words: Counter[str] = Counter()
    for sentence in sentences:
        pieces = plain.pre_tokenizer.pre_tokenize_str(plain.normalize(sentence.text))
        words.update(word for word, _ in pieces)
    endings: Counter[str] = Counter()
    for word, count in words.items():
        endings.update({"##" + word[i:]: count for i in range(3, len(word) - 1)})
    letters = sorted(set("".join(words)))
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + c for c in letters)]
    known += [piece for piece, _ in (*words.most_common(WORDS), *endings.most_common(ENDINGS))]
    tokenizer = BertWordPieceTokenizer({piece: i for i, piece in enumerate(dict.fromkeys(known))})
    tokenizer.enable_truncation(LONGEST)
    return tokenizer


def batch_of(encodings: Sequence[Encoding]) -> Batch:
    def padded(name: str, filler: int) -> Tensor:
        rows = [torch.tensor([v or 0 for v in getattr(e, name)]) for e in encodings]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=filler)

    ids, mask = padded("ids", 0), padded("attention_mask", 0)
    return Batch(ids, mask, padded("special_tokens_mask", 1).bool(), padded("word_ids", 0))


def train(
    tokenizer: BertWordPieceTokenizer, sentences: Sequence[Sentence], epochs: int = 4
) -> BertForSequenceClassification:
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        hidden_dropout_prob=0.3,
        max_position_embeddings=LONGEST,
    )
    model, size, rate = BertForSequenceClassification(config), 64, 2e-3
    encodings = tokenizer.encode_batch([s.text for s in sentences])
    labels = torch.tensor([s.label for s in sentences])
    mask_token = tokenizer.token_to_id("[MASK]")
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    steps = epochs * -(-len(encodings) // size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
    for _ in range(epochs):
        # Sentences of about one length go together, so that there is little padding.
        by_length = torch.tensor([len(e.ids) for e in encodings]) + 4 * torch.rand(len(encodings))
        parts = by_length.argsort().split(size)
        for part in (parts[i] for i in torch.randperm(len(parts)).tolist()):
            batch = batch_of([encodings[i] for i in part.tolist()])
            # Explaining takes words away, so the model learns to read what is left.
            gone = torch.rand(batch.ids.shape) < 0.5 * torch.rand(len(part), 1)
            ids = torch.where(gone, batch.without_words(mask_token), batch.ids)
            optimizer.zero_grad()
            logits = model(ids, attention_mask=batch.mask).logits
            nn.functional.cross_entropy(logits, labels[part]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


class Judge(nn.Module):
    """The log-odds that a sentence is in favour, [B]: one number to explain."""

    def __init__(self, bert: BertForSequenceClassification) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        against, in_favour = self.bert(ids, attention_mask=mask).logits.unbind(1)
        return in_favour - against


def by_three_methods(judge: Judge, batch: Batch, mask_token: int) -> dict[str, Tensor]:
    """What each word adds to the log-odds, [B, most words] by each method.

    Special tokens are the same in the baseline, so they are in every row that the model sees.
    """
    start = batch.without_words(mask_token)
    path = fastxai.LayerIntegratedGradients(judge, judge.bert.bert.embeddings.word_embeddings)
    tokens = path.attribute(batch.ids, start, additional_forward_args=batch.mask).sum(2)  # [B, T]
    words = tokens.new_zeros(len(tokens), int(batch.words.max()) + 1)
    found = {"Integrated Gradients": words.scatter_add(1, batch.words, tokens)}
    # As nothing changes with special tokens, it does not matter that they are in the first group.
    for method in (fastxai.KernelShap, fastxai.Lime):
        found[method.get_name()] = method(judge).attribute(
            batch.ids,
            start,
            additional_forward_args=batch.mask,
            feature_mask=batch.words,
            n_samples=SAMPLES,
            return_input_shape=False,
            seed=0,
        )
    return found


def words_of(sentence: Sentence, encoding: Encoding) -> list[str]:
    """The words as they are written."""
    spans: dict[int, tuple[int, int]] = {}
    for word, (start, end) in zip(encoding.word_ids, encoding.offsets, strict=True):
        if word is not None:
            spans[word] = spans.get(word, (start, end))[0], end
    return [sentence.text[start:end] for start, end in spans.values()]


def agreement(values: Tensor, words: Sequence[Sequence[str]], ratings: dict[str, float]) -> str:
    """How often a word adds to the side on which people rate it."""
    agrees = [
        (value > 0) == (ratings[word.lower()] > 0)
        for row, line in zip(values.tolist(), words, strict=True)
        for value, word in zip(row, line, strict=False)
        if word.lower() in ratings
    ]
    return f"{sum(agrees) / len(agrees):.0%} of {len(agrees)} words"


def chosen(sentences: Sequence[Sentence], odds: Tensor) -> list[int]:
    """The two that people rate worst, the two they rate best, the surest mistake of each kind."""
    by_rating = sorted(range(len(sentences)), key=lambda i: sentences[i].rating)
    labels = torch.tensor([s.label for s in sentences])
    too_good, too_bad = (odds - 100 * labels).argmax(), (odds + 100 * (1 - labels)).argmin()
    return [*by_rating[:2], *by_rating[-2:], int(too_good), int(too_bad)]


def title_of(sentence: Sentence, odds: float) -> str:
    probability = torch.tensor(odds).sigmoid().item()
    verdict = "for it" if probability > 0.5 else "against it"
    sure = max(probability, 1 - probability)
    mistake = "" if (odds > 0) == (sentence.rating > 0) else " (a mistake)"
    rating = f"{sentence.rating:+.1f}".replace("-", "−")
    return f"the model: {verdict}, {sure:.0%} sure{mistake};  people: {rating} on a scale to ±4"


def draw_words(
    ax: Axes, y: float, words: Sequence[str], values: Sequence[float], colours: ScalarMappable
) -> None:
    x, to_data = 0.0, ax.transData.inverted()
    for word, value in zip(words, values, strict=True):
        red, green, blue, _ = colour = colours.to_rgba(value)
        is_dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
        drawn = ax.text(
            *(x, y, word),
            fontsize=11,
            color="white" if is_dark else "black",
            verticalalignment="center",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 2.5},
        )
        x = drawn.get_window_extent().transformed(to_data).x1 + 0.009


def draw(
    path: Path, lines: Sequence[Sequence[str]], titles: Sequence[str], found: dict[str, Tensor]
) -> None:
    limit = 0.6 * max(values.abs().max().item() for values in found.values())
    colours = ScalarMappable(Normalize(-limit, limit), SIGNS)
    figure, axes = plt.subplots(len(lines), figsize=(11.5, 1.3 * len(lines) + 1.2))
    figure.subplots_adjust(left=0.155, right=0.98, top=0.915, bottom=0.125, hspace=0.45)
    for i, (ax, words, title) in enumerate(zip(axes, lines, titles, strict=True)):
        ax.set(xlim=(0, 1), ylim=(len(found) - 0.5, -0.5), xticks=[])
        ax.set_yticks(range(len(found)), list(found))
        ax.tick_params(axis="y", length=0)
        ax.spines[:].set_visible(False)
        ax.set_title(title, fontsize=10, loc="left")
        for y, values in enumerate(found.values()):
            draw_words(ax, y, words, values[i, : len(words)].tolist(), colours)
    place = figure.add_axes((0.3, 0.065, 0.53, 0.016))
    bar = figure.colorbar(colours, cax=place, orientation="horizontal", extend="both")
    bar.set_label("against the film    ←    what a word adds to the log-odds    →    for the film")
    figure.suptitle("Held-out sentences of film reviews, three methods, one scale", fontsize=12)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="vaderSentiment-3.3.2.tar.gz")
    parser.add_argument(
        "--out", type=Path, default=Path("demo_output"), help="the picture's folder"
    )
    options = parser.parse_args()
    torch.manual_seed(0)
    kept, held_out, ratings = read(options.data)

    tokenizer = tokenizer_for(kept)
    mask_token = tokenizer.token_to_id("[MASK]")
    started = time.perf_counter()
    judge = Judge(train(tokenizer, kept))
    seconds = time.perf_counter() - started

    encodings = tokenizer.encode_batch([s.text for s in held_out])
    batch = batch_of(encodings)
    with torch.no_grad():
        odds = judge(batch.ids, batch.mask)
    labels = torch.tensor([s.label for s in held_out])
    accuracy = ((odds > 0) == labels).double().mean()
    print(f"film reviews, BERT: trained on {len(kept)} sentences for {seconds:.0f} s")
    print(f"  accuracy {accuracy:.1%} on {len(held_out)} held-out sentences")

    short = [i for i, e in enumerate(encodings) if 8 <= len(e.ids) <= 20][:EXPLAINED]
    sentences, encodings = [held_out[i] for i in short], [encodings[i] for i in short]
    lines = [words_of(s, e) for s, e in zip(sentences, encodings, strict=True)]
    found = by_three_methods(judge, batch_of(encodings), mask_token)
    print(f"  words of {len(short)} sentences that add to the side on which people rate the word:")
    for name, values in found.items():
        print(f"    {name:<22}{agreement(values, lines, ratings)}")

    shown = chosen(sentences, odds[short])
    options.out.mkdir(parents=True, exist_ok=True)
    draw(
        options.out / "text.png",
        [lines[i] for i in shown],
        [title_of(sentences[i], odds[short[i]].item()) for i in shown],
        {name: values[shown] for name, values in found.items()},
    )
    print(f"Wrote {options.out / 'text.png'}")


if __name__ == "__main__":
    main()
