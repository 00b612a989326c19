"""Whose moments a draw's batch norm should use: averaged predictions under five choices of them.

    python benchmarks/batch_norm_draws.py --method calibrated --epochs 12

A small residual network learns the embedded digits at 8 x 8. Its averaged prediction is then judged with the
running moments of training, with the posterior-mean network's, with an average over draws, and with moments
of each draw's own, from all training images or a few. Prints a Markdown table.
"""

import argparse

import torch
import torch.nn.functional as F
from torch.func import functional_call

from secateur.data import load
from secateur.inference import Calibrated, FlatFF
from secateur.modules import moments, spread
from secateur.networks.resnet import ResNet

NUM_DRAWS = 30
NUM_AVERAGED = 16


def main() -> None:
    """Train, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--method", choices=("calibrated", "flat-ff"), default="calibrated")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    digits = load("digits")
    images, labels = digits.train.images, digits.train.labels
    model = ResNet(digits.image_shape, 10, num_blocks=given.blocks, width=given.width)
    options = {"num_data": len(images), "generator": torch.Generator().manual_seed(given.seed)}
    if given.method == "calibrated":
        optimizer = Calibrated(model.named_parameters(), lr=3e-3, **options)
    else:
        optimizer = FlatFF(model.named_parameters(), lr=5e-3, **options)
    for _ in range(given.epochs):
        for batch in torch.randperm(len(images))[: len(images) // 32 * 32].view(-1, 32):
            with optimizer.sampled_parameters():
                loss = F.cross_entropy(model(images[batch]), labels[batch])
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
    model.eval()
    running = dict(model.named_buffers())
    posterior = optimizer.posterior()
    mean = moments(model, images)

    @torch.no_grad()
    def judged(networks) -> str:
        predicted = torch.stack([
            functional_call(model, network, (digits.test.images,)).log_softmax(-1) for network in networks
        ])
        averaged = predicted.logsumexp(0) - torch.tensor(float(len(predicted))).log()
        right = (averaged.argmax(1) == digits.test.labels).float().mean()
        return f"{float(right):.3f} / {float(F.nll_loss(averaged, digits.test.labels)):.3f}"

    print(f"posterior mean: running {judged([running])}, its own {judged([mean])}\n")
    print(
        "| temperature | running | mean network's | average over draws | each draw's own | of 256 | of 64 |"
    )
    print("|---|---|---|---|---|---|---|")
    for temperature in (0.1, 0.5, 1.0):
        warm = posterior.at_temperature(temperature)
        others = torch.Generator().manual_seed(given.seed + 2)
        several = [moments(model, images, warm.sample(generator=others)) for _ in range(NUM_AVERAGED)]
        average = {name: torch.stack([each[name] for each in several]).mean(0) for name in mean}
        generator = torch.Generator().manual_seed(given.seed + 1)
        draws = [warm.sample(generator=generator) for _ in range(NUM_DRAWS)]
        row = [judged([draw | shared for draw in draws]) for shared in (running, mean, average)]
        for count in (len(images), 256, 64):
            some = spread(images, count)
            row.append(judged([draw | moments(model, some, draw) for draw in draws]))
        print("|", " | ".join([f"{temperature:g}", *row]), "|")


if __name__ == "__main__":
    main()
