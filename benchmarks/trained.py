"""Prune a trained network by `secateur.prune_trained` and by known methods, under one protocol.

    python benchmarks/trained.py resnet20 --data DIR --sparsity .5 .6 .7 .8 .9 --methods ours sparsegpt
    python benchmarks/trained.py lenet --stop --methods ours
    python benchmarks/trained.py smollm2 --data DIR --pattern 2:4 --methods ours sparsegpt wanda

Each line says: method, seed, share of the weights that is out, test scores, seconds, and peak memory of the
process so far. Choices (what to remove, where to stop) are made on calibration and held-out data. The test
set is only scored. Known methods are in `benchmarks/neighbours`, trained networks in
`benchmarks/trained_subjects.py`.

By ours several shares are reached in one removal, whose rounds pass through them; others start anew for each.
"""

import argparse
import copy
import json
import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from glob import escape
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from neighbours import METHODS, prune_units
from trained_subject import Subject
from trained_subjects import SUBJECTS

import secateur

Row = dict[str, Any]


def through(shares: list[float], rounds: int) -> list[float]:
    """Return about so many rising shares through these, each removing the same share of what is left."""
    step = (1 - shares[-1]) ** (1 / rounds)
    free = [1 - step**number for number in range(1, rounds)]
    near = [
        share for share in free if all(abs(share - each) > (1 - share) * (1 - step) / 2 for each in shares)
    ]
    return sorted({*near, *shares})


def ours(subject: Subject, arguments: argparse.Namespace, seed: int) -> Iterable[Row]:
    """Prune once, through all shares; yield the scores at each."""
    model = copy.deepcopy(subject.model)
    options: dict[str, Any] = {"include": [escape(name) for name in subject.weights]}
    if arguments.granularity:
        options |= {"granularity": arguments.granularity}
    rows: list[Row] = []
    shares = sorted(arguments.sparsity or [])
    start = time.perf_counter()
    scoring = 0.0

    def at_share(found: secateur.pruning.PruneRound) -> None:
        nonlocal scoring
        print(
            f"    {found.sparsity:.4f} out: loss {found.loss:.4f}, held out {found.held_out_loss:.4f} "
            f"(rise {found.held_out_rise:+.4f}, s.e. {found.held_out_error:.4f}), evidence predicted "
            f"{found.predicted_delta_f:+,.0f}, observed {found.observed_delta_f:+,.0f}, "
            f"{time.perf_counter() - start:.0f} s",
            file=sys.stderr,
            flush=True,
        )
        before = time.perf_counter()
        if any(abs(found.sparsity - share) < 1e-4 for share in (shares if arguments.stop else shares[:-1])):
            rows.append({"out": found.sparsity, **subject.scores(model), "seconds": before - start - scoring})
        scoring += time.perf_counter() - before

    if arguments.stop:
        rounds = through(shares, arguments.rounds) if shares else arguments.rounds
        options |= {"max_loss_rise": arguments.max_loss_rise, "rounds": rounds}
    elif arguments.pattern:
        options |= {"pattern": arguments.pattern, "rounds": arguments.rounds}
    else:
        options |= {"sparsity": shares[-1], "rounds": through(shares, arguments.rounds)}
    result = secateur.prune_trained(
        model,
        subject.loader,
        held_out=subject.held_out,
        num_data=subject.num_data,
        seed=seed,
        progress=False,
        spread=arguments.spread,
        max_batches=arguments.max_batches,
        on_round=at_share,
        **options,
    )
    seconds = time.perf_counter() - start - scoring
    rows.append({"out": result.sparsity, **subject.scores(model), "seconds": seconds})
    if arguments.stop:
        print(str(result).splitlines()[-1], file=sys.stderr)
        rows[-1]["stopped_by"] = result.stopped_by
    return rows


def neighbour(name: str, subject: Subject, arguments: argparse.Namespace, seed: int) -> Iterable[Row]:
    """Prune anew for each share."""
    batches = list(subject.loader)
    if arguments.batches_of_neighbours:
        order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(seed)).tolist()
        batches = [batches[number] for number in islice(order, arguments.batches_of_neighbours)]
    targets = (
        [{"pattern": arguments.pattern}]
        if arguments.pattern
        else [{"sparsity": share} for share in arguments.sparsity]
    )
    for target in targets:
        model: nn.Module = copy.deepcopy(subject.model)
        start = time.perf_counter()
        given: dict[str, Any] = {"weights": list(subject.weights), **target}
        if arguments.granularity:
            masks = prune_units(name, model, batches, granularity=arguments.granularity, **given)
        else:
            masks = METHODS[name](model, batches, num_data=subject.num_data, seed=seed, **given)
        seconds = time.perf_counter() - start
        total = sum(mask.numel() for mask in masks.values())
        out = 1 - sum(int(mask.sum()) for mask in masks.values()) / total
        yield {"out": out, **subject.scores(model), "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("--data", type=Path, default=Path(), help="folder with the files of the subject")
    parser.add_argument(
        "--work", type=Path, default=Path("work/trained"), help="folder for what is trained here"
    )
    parser.add_argument("--methods", nargs="+", choices=["ours", *METHODS], default=["ours", *METHODS])
    parser.add_argument("--sparsity", type=float, nargs="+")
    parser.add_argument("--pattern")
    parser.add_argument("--granularity", nargs="+", help="whole units: neuron, head or both")
    parser.add_argument(
        "--stop",
        action="store_true",
        help="let the evidence stop, past the shares of --sparsity where there are any; ours only",
    )
    parser.add_argument("--max-loss-rise", type=float)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--spread", choices=["row", "conditioned"])
    parser.add_argument("--max-batches", type=int, help="batches of each round's curvature")
    parser.add_argument("--batches-of-neighbours", type=int, help="batches that other methods see")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the calibration")
    parser.add_argument("--out", type=Path, help="file to append each result to, a line of JSON each")
    arguments = parser.parse_args()

    subject = SUBJECTS[arguments.subject](arguments.data, arguments.work)
    print("dense", json.dumps(subject.scores(subject.model)), flush=True)
    found: dict[tuple[str, float], list[Row]] = defaultdict(list)
    for name in arguments.methods:
        for seed in arguments.seeds:
            run = (
                ours(subject, arguments, seed)
                if name == "ours"
                else neighbour(name, subject, arguments, seed)
            )
            for row in run:
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
                line = {"subject": arguments.subject, "method": name, "seed": seed, **row, "peak_gib": peak}
                print(json.dumps(line), flush=True)
                found[name, round(row["out"], 3)].append(row)
                if arguments.out is not None:
                    with arguments.out.open("a") as file:
                        file.write(json.dumps(line) + "\n")
    for (name, share), rows in found.items():
        for score in subject.scores(subject.model) if len(rows) > 1 else ():
            values = [row[score] for row in rows]
            error = statistics.stdev(values) / len(values) ** 0.5
            print(f"{name} at {share}: {score} {statistics.mean(values):.4f}, standard error {error:.4f}")


if __name__ == "__main__":
    main()
