"""Which words make a Hugging Face classifier take a sentence for praise or for blame?

``pip install transformers``, and the rated sentences that text.py reads: ``pip download --no-deps
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
    "I love it, a great film!",
]


def trained(path: Path) -> tuple[BertForSequenceClassification, PreTrainedTokenizerFast]:
    torch.manual_seed(0)
    sentences = Random(0).sample(read(path)[0], 4000)
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
    # [CLS], [SEP] and padding stay where they are; they are no players and have nothing.
    stays = given["input_ids"] < 5
    absent = {"input_ids": given["input_ids"].where(stays, tokenizer.mask_token_id)}
    shared = {"target": "praise", "baselines": absent}
    shap = fastxai.KernelShap(model).explain(given, n_samples=400, seed=0, **shared)
    layer = fastxai.LayerIntegratedGradients(model, model.get_input_embeddings())
    path = layer.explain(given, n_steps=50, **shared)

    out.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(14, 4.4), layout="constrained")
    for (left, right), line, text in zip(
        figure.subplots(len(TEXTS), 2), range(len(TEXTS)), TEXTS, strict=True
    ):
        tokens = tokenizer.tokenize(text, add_special_tokens=True)
        values = shap.values[line, : len(tokens)]
        best = tokens[values.abs().argmax()]
        print(f"{text}\n  the logit of praise is {shap.outputs[line]:+.1f}, above all by '{best}'")
        fastxai.plot.text(shap[line, : len(tokens)], tokens, target_names="praise", ax=left)
        words = path.values[line, : len(tokens)].sum(1)  # over what a token is embedded in
        fastxai.plot.text(words, tokens, target_names="praise", ax=right)
        if line == 0:
            left.set_title("KernelShap")
            right.set_title("Integrated Gradients at the embeddings")
    figure.savefig(out / "sentiment.png", dpi=90)
    return {"KernelShap": shap, "Integrated Gradients": path}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="vaderSentiment-3.3.2.tar.gz")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out")
    options = parser.parse_args()
    main(options.data, options.out)
