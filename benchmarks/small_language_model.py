"""Remove whole units of SmolLM2-135M, shrink it, and generate with what is left, in a fresh process.

    python benchmarks/small_language_model.py prune --data DIR --out DIR
    python benchmarks/small_language_model.py measure --data DIR --out DIR
    python benchmarks/small_language_model.py recover --data DIR --out DIR

* prune: a fifth of the weights, as feed-forward columns and groups of heads, by joint evidence; the masked
  network goes to OUT/masked.
* measure: `secateur.compact`, `secateur.save` to OUT/small, bytes; another process loads both and generates.
  It says whether the tokens are the same, and how many come in a second.
* recover: steps of `secateur.recover` on the windows that it was pruned on, cut short; perplexity after.

Data, windows and scores are those of `benchmarks/trained.py smollm2`.
"""

import argparse
import copy
import json
import resource
import subprocess
import sys
import time
from glob import escape
from pathlib import Path
from typing import Any

import torch
from torch import nn
from trained_texts import smollm2

import secateur

KINDS = ("neuron", "head")
PROMPT = "The capital of France is a city"
NEW_TOKENS = 64
TURNS = 5


def prune(arguments: argparse.Namespace) -> dict[str, Any]:
    """Prune the network, and write it with its zeros."""
    subject = smollm2(arguments.data, arguments.out)
    dense = subject.scores(subject.model)["perplexity"]
    start = time.perf_counter()
    result = secateur.prune_trained(
        subject.model,
        subject.loader,
        granularity=KINDS,
        sparsity=arguments.sparsity,
        rounds=arguments.rounds,
        max_batches=arguments.max_batches,
        held_out=subject.held_out,
        include=[escape(name) for name in subject.weights],
        progress=False,
        on_round=lambda found: print(found, file=sys.stderr, flush=True),
    )
    seconds = time.perf_counter() - start
    subject.model.save_pretrained(arguments.out / "masked")
    return {
        "dense": dense,
        "masked": subject.scores(subject.model)["perplexity"],
        "out": result.sparsity,
        "units": [result.units_before, result.units_after],
        "seconds": seconds,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def masked_network(folder: Path) -> nn.Module:
    """Return the pruned network in its old widths, its zeros held."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "masked").eval()
    secateur.hold_zeros(model)
    return model


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Shrink the network, write it, and compare the two in a process of its own."""
    model = masked_network(arguments.out)
    small = secateur.compact(model, {"input_ids": torch.arange(1, 17).view(1, -1)})
    secateur.save(small, arguments.out / "small")
    command = [sys.executable, "-W", "ignore", __file__, "generate"]
    paths = ["--data", str(arguments.data), "--out", str(arguments.out)]
    said = subprocess.run([*command, *paths], check=True, capture_output=True, text=True).stdout
    return {
        "parameters": [sum(each.numel() for each in network.parameters()) for network in (model, small)],
        "bytes": {
            name: sum(file.stat().st_size for file in (arguments.out / name).rglob("*") if file.is_file())
            for name in ("masked", "small")
        },
        **json.loads(said.splitlines()[-1]),
    }


def generate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Load both networks, and generate with them in turn."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(arguments.out / "smollm2")
    prompt = tokenizer(PROMPT, return_tensors="pt")
    networks: dict[str, Any] = {
        "masked": masked_network(arguments.out),
        "small": secateur.load(arguments.out / "small").eval(),
    }
    options = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    times: dict[str, list[float]] = {name: [] for name in networks}
    tokens: dict[str, list[int]] = {}
    for _ in range(TURNS):
        for name, network in networks.items():
            start = time.perf_counter()
            tokens[name] = network.generate(**prompt, **options)[0].tolist()
            times[name].append(time.perf_counter() - start)
    return {
        "same_tokens": tokens["masked"] == tokens["small"],
        "text": tokenizer.decode(tokens["small"]),
        "tokens_per_second": {name: NEW_TOKENS / min(own) for name, own in times.items()},
        "threads": torch.get_num_threads(),
    }


def recover(arguments: argparse.Namespace) -> dict[str, Any]:
    """Let the pruned network learn to answer as the dense one does."""
    subject = smollm2(arguments.data, arguments.out)
    model, dense = masked_network(arguments.out), copy.deepcopy(subject.model)
    windows = [
        {key: value[:, start : start + arguments.window] for key, value in batch.items()}
        for batch in subject.loader
        for start in range(0, batch["input_ids"].shape[1], arguments.window)
    ]
    epochs = -(-arguments.steps // len(windows))
    before = subject.scores(model)["perplexity"]
    start = time.perf_counter()
    divergences = secateur.recover(
        model, dense, windows, epochs=epochs, learning_rate=arguments.learning_rate, progress=False
    )
    return {
        "steps": epochs * len(windows),
        "before": before,
        "after": subject.scores(model)["perplexity"],
        "divergences": list(divergences),
        "seconds": time.perf_counter() - start,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    work = {each.__name__: each for each in (prune, measure, generate, recover)}
    parser.add_argument("work", choices=work)
    parser.add_argument("--data", type=Path, required=True, help="folder with wikitext2-*.txt")
    parser.add_argument("--out", type=Path, required=True, help="folder for the networks")
    parser.add_argument("--sparsity", type=float, default=0.2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--max-batches", type=int, default=8)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(json.dumps(work[arguments.work](arguments)))


if __name__ == "__main__":
    main()
