"""The Transformers library's Trainer in two processes: one network on both, and that of one process."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from support.ranks import tensors_left_by

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

PROGRAM = """
import os, sys
from pathlib import Path
import torch, transformers
from safetensors.torch import save_file
import secateur
from secateur.integrations.transformers import PruningCallback

torch.set_num_threads(1)
curved, out = sys.argv[1] == "curved", Path.cwd()
rank, world = (int(os.environ.get(name, some)) for name, some in (("RANK", 0), ("WORLD_SIZE", 1)))
generator = torch.Generator().manual_seed(0)
rows = [
    {"input_ids": tokens, "attention_mask": torch.ones(6, dtype=torch.long), "labels": tokens[0] % 4}
    for tokens in torch.randint(2, 20, (32, 6), generator=generator)
]
whole = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
torch.manual_seed(0)
model = transformers.BertForSequenceClassification(transformers.BertConfig(
    vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
    max_position_embeddings=8, num_labels=4, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
))
optimizer = secateur.inference.Calibrated(
    model.named_parameters(), lr=0.01, num_data=32, generator=torch.Generator().manual_seed(1),
    curvature=secateur.curvature.RunningCurvature(model, every=1) if curved else None,
)
pruner = secateur.GradualPruner(
    model, optimizer,
    secateur.pruning.Schedule(first_epoch=2, last_epoch=3, max_fraction=0.2, max_loss_rise=0.5),
    observe=lambda: model(**whole).loss.item(), exclude=["*.query.*", "*.key.*"], num_data=32,
)
arguments = transformers.TrainingArguments(
    output_dir=str(out / "run"), num_train_epochs=4, per_device_train_batch_size=8 // world, use_cpu=True,
    ddp_backend="gloo" if world > 1 else None, average_tokens_across_devices=False, learning_rate=0.01,
    lr_scheduler_type="constant", max_grad_norm=0.0, train_sampling_strategy="sequential", report_to=[],
    save_strategy="epoch", disable_tqdm=True, dataloader_pin_memory=False,
)
callback = PruningCallback(pruner)
transformers.Trainer(
    model, arguments, train_dataset=rows, optimizers=(optimizer, None), callbacks=[callback]
).train()
masks = secateur.masks_of(model)
found = {f"weight {name}": each.detach().clone() for name, each in model.state_dict().items()}
found |= {f"mask {name}": mask.to(torch.uint8).contiguous() for name, mask in masks.items()}
found["loss"] = model(**whole).loss.detach()
save_file(found, out / f"{rank}-of-{world}.safetensors")
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""


def removed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: each for name, each in tensors.items() if name.startswith("mask ")}


def test_two_processes_prune_one_network_under_its_curvature(tmp_path: Path) -> None:
    first, second = tensors_left_by(PROGRAM, 2, tmp_path, "curved")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert sum(int((1 - mask).sum()) for mask in removed(first).values()) > 100
    assert (tmp_path / "run").is_dir()


@pytest.mark.slow  # three processes
def test_two_processes_have_the_network_of_one(tmp_path: Path) -> None:
    (one,), (first, _) = (
        tensors_left_by(PROGRAM, 1, tmp_path, "plain"),
        tensors_left_by(PROGRAM, 2, tmp_path, "plain"),
    )
    assert removed(one).keys() == removed(first).keys()
    assert all(torch.equal(mask, removed(first)[name]) for name, mask in removed(one).items())
    # weights that the loss does not depend on, as biases of keys, go where rounding sends them
    torch.testing.assert_close(one["loss"], first["loss"], rtol=1e-4, atol=1e-4)
