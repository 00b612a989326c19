"""A trained ResNet-20 made faster in three steps: ask the evidence, remove whole channels, recover.

Needs the weights of a ResNet-20 for CIFAR-10 as a safetensors file (names as in `secateur.networks`: `conv1`,
`bn1`, `layer1.0.conv1`, ..., `linear`) and the data set in a folder that `secateur.data` reads:

    python examples/resnet20_structured.py resnet20.safetensors DATA_DIR --out resnet20-small.safetensors

1. Channels leave in a few rounds, cheapest first in nats for each multiply-add saved, until
   `--multiply-adds` of the work is left. After each round what stays moves to its mean given the removal. The
   residual streams stay.
2. `compact` removes them physically.
3. The smaller network learns for a few epochs to answer as the trained one does. Its batch normalisation,
   whose moments belonged to the channels that have left, is estimated anew on the way.

What is printed: accuracy of both networks on the test images, and their times per call in PyTorch and in
onnxruntime, in turn.
"""

import argparse
import copy
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax
from torch.utils.data import DataLoader, TensorDataset

import secateur
from secateur.data import Dataset, Split
from secateur.data.augment import crop_and_flip
from secateur.export import artifact, bench, onnx

# What the trained network's images were standardised with, per channel.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 64


def main() -> None:
    """Run the three steps with the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("weights", type=Path, help="safetensors file of the trained ResNet-20")
    parser.add_argument("data", type=Path, help="folder with CIFAR-10 as secateur.data reads it")
    parser.add_argument("--images", type=int, default=None, help="train on so many images only")
    parser.add_argument("--evidence-images", type=int, default=1000, help="images of the curvature passes")
    parser.add_argument("--rounds", type=int, default=5, help="in which the channels leave")
    parser.add_argument("--multiply-adds", type=float, default=0.5, help="share of the work to leave")
    parser.add_argument("--epochs", type=int, default=8, help="of recovery")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="file for the smaller network")
    arguments = parser.parse_args()

    data = standardised(secateur.data.load("cifar10", data_dir=arguments.data))
    chosen = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(arguments.seed))
    chosen = chosen[: arguments.images]
    train = Split(data.train.images[chosen], data.train.labels[chosen])
    network = secateur.networks.build("resnet20", image_shape=(3, 32, 32), num_classes=10)
    network.load_state_dict(load_file(arguments.weights))
    network.eval()

    small = without_channels(
        network,
        train,
        num_evidence=arguments.evidence_images,
        multiply_adds=arguments.multiply_adds,
        rounds=arguments.rounds,
    )
    recover(small, network, train, epochs=arguments.epochs, seed=arguments.seed)
    for name, each in (("trained", network), ("smaller", small)):
        print(f"{name}: accuracy {accuracy(each, data.test):.4f}")
    show_times(network, small, data.test.images[:8])
    if arguments.out is not None:
        print(f"{artifact.save(small, arguments.out):,} bytes in {arguments.out}")


def standardised(data: Dataset) -> Dataset:
    """Return the data standardised as the trained network knows them, not by their own moments."""
    own_mean, own_std, mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in (data.pixel_mean, data.pixel_std, MEAN, STD)
    )

    def again(split: Split) -> Split:
        return Split((split.images * own_std + own_mean - mean) / std, split.labels)

    return Dataset(data.name, again(data.train), again(data.test), data.num_classes, data.class_names)


def without_channels(
    network: nn.Module, train: Split, *, num_evidence: int, multiply_adds: float, rounds: int
) -> nn.Module:
    """Return a physically smaller network, not yet recovered.

    Args:
        network: The trained one, in evaluation mode; it is not changed.
        train: Training data.
        num_evidence: Images of the curvature passes, the first ones.
        multiply_adds: Share of the multiply-adds to leave.
        rounds: In how many rounds the channels leave.
    """
    some = TensorDataset(train.images[:num_evidence], train.labels[:num_evidence])
    masked = copy.deepcopy(network)
    result = secateur.prune_trained(
        masked,
        DataLoader(some, batch_size=BATCH),
        granularity="channel",
        exclude=["linear.*"],  # and so the streams that it reads
        multiply_adds=multiply_adds,
        rounds=rounds,
        num_data=len(train),
    )
    for layer, before in result.units_before.items():
        print(f"{layer}: {result.units_after[layer]} of {before} channels stay")
    return secateur.compact(masked, train.images[:2])


def recover(small: nn.Module, trained: nn.Module, train: Split, *, epochs: int, seed: int) -> None:
    """Train the smaller network, in place, to give the trained network's probabilities.

    Args:
        small: The smaller network.
        trained: The one it came from.
        train: Training data; each epoch sees them shifted and mirrored anew.
        epochs: How often.
        seed: Of order and shifts.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(small.parameters(), momentum=0.9, nesterov=True, weight_decay=1e-4)
    batches = -(-len(train) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.02, total_steps=epochs * batches, pct_start=0.1
    )
    small.train()
    for epoch in range(epochs):
        total = 0.0
        for index in torch.randperm(len(train), generator=generator).split(BATCH):
            images = crop_and_flip(train.images[index], generator=generator)
            with torch.no_grad():
                wanted = trained(images).softmax(1)
            loss = kl_div(log_softmax(small(images), 1), wanted, reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(index)
        print(f"epoch {epoch + 1}/{epochs}: {total / len(train):.4f} nats from the trained network")
    small.eval()


@torch.no_grad()
def accuracy(network: nn.Module, data: Split) -> float:
    """Return the share of images put in the right class."""
    logits: Tensor = torch.cat([network(images) for images in data.images.split(500)])
    return float((logits.argmax(1) == data.labels).double().mean())


def show_times(network: nn.Module, small: nn.Module, images: Tensor, *, seconds: float = 10.0) -> None:
    """Print the median time of one call of either network in PyTorch and in onnxruntime, in turn."""
    networks = {"trained": network, "smaller": small}
    with tempfile.TemporaryDirectory() as folder:
        graphs = {
            f"{name}, onnxruntime": onnx(each, Path(folder) / f"{name}.onnx", images).path
            for name, each in networks.items()
        }
        rows = bench(networks | graphs, images, seconds=seconds)
    for row in rows:
        times = ", ".join(f"{1e3 * each.median:.2f} ms at batch {each.batch}" for each in row.latencies)
        print(f"{row.variant}: {times}, {row.file_bytes:,} bytes")


if __name__ == "__main__":
    main()
