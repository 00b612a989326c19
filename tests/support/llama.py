"""A tiny Llama, batches of tokens for it, and the names of its linear maps."""

from importlib import import_module

import torch
from torch import Tensor, nn

__all__ = ["llama", "projections", "sentences"]


def llama() -> nn.Module:
    """Return a Llama of three layers with weights of a seed."""
    transformers = import_module("transformers")
    config = transformers.LlamaConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16,
        bos_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.LlamaForCausalLM(config)


def sentences() -> list[dict[str, Tensor]]:
    """Return batches of tokens, of which one has padding at its end."""
    generator = torch.Generator().manual_seed(1)
    batches = []
    for length in (12, 12, 9):
        tokens = torch.randint(2, 20, (2, length), generator=generator)
        batches.append({"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens})
    batches[1]["attention_mask"][0, 7:] = 0
    return batches


def projections(model: nn.Module) -> list[str]:
    """Return the names of the weights of its linear maps."""
    return [name for name, _ in model.named_parameters() if name.endswith("proj.weight")]
