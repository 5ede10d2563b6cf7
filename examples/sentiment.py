"""Which words make a Hugging Face classifier take a sentence for praise or for blame?

``pip install transformers`` and the rated sentences that text.py reads: ``pip download --no-deps
--no-binary :all: vaderSentiment==3.3.2``. A tiny BERT is trained on them; with a checkpoint of your
own, ``from_pretrained`` takes the place of the first function.
"""

import argparse
from pathlib import Path
from random import Random

import torch
from matplotlib.figure import Figure
from text import read, tokenizer_for, train
from transformers import BertForSequenceClassification, PreTrainedTokenizerFast

import fastxai
import fastxai.plot

TEXTS = [
    "A wonderful cast, and not one boring moment.",
    "The plot is dull.",
    "It starts as a lovely little comedy but ends as a terrible, stupid mess.",
    "Not good, not funny, just sad.",
]


def trained(path: Path) -> tuple[BertForSequenceClassification, PreTrainedTokenizerFast]:
    torch.manual_seed(0)
    sentences, _, _ = read(path)
    sentences = Random(0).sample(sentences, 6000)
    pieces = tokenizer_for(sentences)
    model = train(pieces, sentences, epochs=3)
    model.config.id2label = {0: "blame", 1: "praise"}
    special = {
        f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")
    }
    return model, PreTrainedTokenizerFast(tokenizer_object=pieces._tokenizer, **special)


def main(data: Path, out: Path) -> dict[str, fastxai.Explanation]:
    model, tokenizer = trained(data)
    given = tokenizer(TEXTS, padding=True, return_tensors="pt")
    embeddings = model.get_input_embeddings()
    found = {
        "KernelShap": fastxai.KernelShap(model).explain(
            given, target="argmax", n_samples=400, seed=0
        ),
        "Integrated Gradients": fastxai.LayerIntegratedGradients(model, embeddings).explain(
            given, target="argmax", n_steps=50
        ),
    }
    for n, e in found.items():
        print(n, e, e.target, e.output_names, e.feature_names, type(e.values))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="vaderSentiment-3.3.2.tar.gz")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out")
    options = parser.parse_args()
    main(options.data, options.out)
