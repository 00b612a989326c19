"""The published sizes, and each family's arithmetic against a naive transcription of its paper."""

import math

import pytest
import torch
from torch.nn.functional import avg_pool2d, conv2d, gelu, layer_norm, linear, pad, silu

from secateur import networks
from secateur.errors import InvalidArgumentError, UsageError


def build(name, image_shape=(1, 32, 32), **options):
    return networks.build(name, image_shape=image_shape, num_classes=10, seed=0, **options).double().eval()


def images(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "image_shape", "expected"),
    [
        ("mlp", (1, 28, 28), 784 * 500 + 500 + 3 * (500 * 500 + 500) + 500 * 10 + 10),
        ("lenet", (1, 32, 32), 61_706),  # LeCun's LeNet-5 with a full second convolution
        ("lenet", (3, 32, 32), 1368 + 21_648 + 432_360 + 92_416 + 2570),
        # block: 4 layers of 256 x 256, MLP of 512, 2 norms; then patches, token, 65 positions, norm, output
        (
            "vit",
            (3, 32, 32),
            6 * (4 * (256 * 256 + 256) + 2 * 256 * 512 + 512 + 256 + 2 * 512)
            + (48 * 256 + 256 + 256 + 65 * 256 + 512 + 2570),
        ),
        (
            "mlp-mixer",
            (3, 32, 32),
            6 * (2 * 64 * 512 + 512 + 64 + 2 * 256 * 512 + 512 + 256 + 2 * 512)
            + (48 * 256 + 256 + 512 + 2570),
        ),
        ("resnet20", (3, 32, 32), 269_722),  # He et al. 2016, Table 6: 0.27 M
    ],
)
def test_published_sizes(name, image_shape, expected):
    assert sum(p.numel() for p in build(name, image_shape).parameters()) == expected


def test_mlp(generator):
    network, x = build("mlp", (1, 8, 8)), images(generator, 4, 1, 8, 8)
    p = dict(network.named_parameters())
    hidden = x.reshape(4, 64)
    for i in range(1, 5):
        hidden = silu(linear(hidden, p[f"hidden.linear{i}.weight"], p[f"hidden.linear{i}.bias"]))
    torch.testing.assert_close(network(x), linear(hidden, p["output.weight"], p["output.bias"]))


@pytest.mark.parametrize(("name", "activation"), [("lenet", torch.tanh), ("lenet-relu", torch.relu)])
def test_lenet(name, activation, generator):
    network, x = build(name), images(generator, 4, 1, 32, 32)
    p = dict(network.named_parameters())
    h = avg_pool2d(activation(conv2d(x, p["conv1.weight"], p["conv1.bias"])), 2)
    h = avg_pool2d(activation(conv2d(h, p["conv2.weight"], p["conv2.bias"])), 2)
    h = activation(conv2d(h, p["conv3.weight"], p["conv3.bias"])).reshape(4, 120)
    h = activation(linear(h, p["dense.weight"], p["dense.bias"]))
    torch.testing.assert_close(network(x), linear(h, p["output.weight"], p["output.bias"]))


def test_vit(generator):
    """Image by image, head by head, token by token."""
    network = build("vit", width=8, depth=2, num_heads=2, patch_size=16)
    p = dict(network.named_parameters())
    x = images(generator, 2, 1, 32, 32)

    def one_image(image):
        tokens = [p["class_token"][0, 0]]
        for row in range(2):
            for column in range(2):
                patch = image[:, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16].reshape(-1)
                weight = p["embedding.projection.weight"].reshape(8, -1)
                tokens.append(weight @ patch + p["embedding.projection.bias"])
        z = torch.stack(tokens) + p["position"][0]
        for b in range(2):
            at = f"blocks.{b}."
            h = layer_norm(z, (8,), p[at + "norm1.weight"], p[at + "norm1.bias"])
            q, k, v = (
                linear(h, p[at + f"attention.{n}.weight"], p[at + f"attention.{n}.bias"])
                for n in ("query", "key", "value")
            )
            gathered = torch.zeros(5, 8, dtype=torch.float64)
            for head in (slice(0, 4), slice(4, 8)):
                for t in range(5):
                    scores = torch.stack([q[t, head] @ k[u, head] / math.sqrt(4) for u in range(5)])
                    gathered[t, head] = scores.softmax(0) @ v[:, head]
            z = z + linear(
                gathered, p[at + "attention.projection.weight"], p[at + "attention.projection.bias"]
            )
            h = layer_norm(z, (8,), p[at + "norm2.weight"], p[at + "norm2.bias"])
            h = gelu(linear(h, p[at + "expand.weight"], p[at + "expand.bias"]))
            z = z + linear(h, p[at + "contract.weight"], p[at + "contract.bias"])
        final = layer_norm(z[0], (8,), p["norm.weight"], p["norm.bias"])
        return linear(final, p["output.weight"], p["output.bias"])

    with torch.no_grad():
        expected = torch.stack([one_image(image) for image in x])
    torch.testing.assert_close(network(x), expected)


def test_vit_heads_can_be_cut_out(generator):
    """A head whose projection columns are zero may be dropped from all four layers; the rest fits still."""
    network, x = build("vit", width=8, depth=1, num_heads=2, patch_size=16), images(generator, 2, 1, 32, 32)
    attention = network.blocks[0].attention
    with torch.no_grad():
        attention.projection.weight[:, 4:] = 0
        expected = network(x)
        for layer in (attention.query, attention.key, attention.value):
            layer.weight, layer.bias = (torch.nn.Parameter(t[:4].clone()) for t in (layer.weight, layer.bias))
        attention.projection.weight = torch.nn.Parameter(attention.projection.weight[:, :4].clone())
        torch.testing.assert_close(network(x), expected)


def test_vit_has_second_derivatives(generator):
    network, x = build("vit", width=8, depth=1, num_heads=2, patch_size=16), images(generator, 2, 1, 32, 32)
    weight = network.blocks[0].attention.query.weight
    (gradient,) = torch.autograd.grad(network(x).square().sum(), weight, create_graph=True)
    (curvature,) = torch.autograd.grad(gradient.square().sum(), weight)
    assert curvature.abs().sum() > 0


def test_mlp_mixer(generator):
    network = build("mlp-mixer", width=8, token_width=5, channel_width=6, depth=2, patch_size=16)
    p = dict(network.named_parameters())
    x = images(generator, 2, 1, 32, 32)
    patches = x.reshape(2, 2, 16, 2, 16).permute(0, 1, 3, 2, 4).reshape(2, 4, 256)  # row, column, pixels
    weight = p["embedding.projection.weight"].reshape(8, 256)
    z = torch.einsum("ntp,wp->ntw", patches, weight) + p["embedding.projection.bias"]
    for b in range(2):
        at = f"blocks.{b}."
        h = layer_norm(z, (8,), p[at + "norm1.weight"], p[at + "norm1.bias"])
        m = at + "mix_tokens."
        u = gelu(torch.einsum("ntw,ht->nhw", h, p[m + "expand.weight"]) + p[m + "expand.bias"][:, None])
        z = z + torch.einsum("nhw,th->ntw", u, p[m + "contract.weight"]) + p[m + "contract.bias"][:, None]
        h = layer_norm(z, (8,), p[at + "norm2.weight"], p[at + "norm2.bias"])
        m = at + "mix_channels."
        u = gelu(torch.einsum("ntw,hw->nth", h, p[m + "expand.weight"]) + p[m + "expand.bias"])
        z = z + torch.einsum("nth,wh->ntw", u, p[m + "contract.weight"]) + p[m + "contract.bias"]
    z = layer_norm(z, (8,), p["norm.weight"], p["norm.bias"]).mean(1)
    torch.testing.assert_close(network(x), linear(z, p["output.weight"], p["output.bias"]))


def test_resnet20(generator):
    network, x = build("resnet20", (3, 32, 32)), images(generator, 2, 3, 32, 32)
    with torch.no_grad():  # moments and scales other than the initial 0 and 1
        for key, value in network.state_dict().items():
            if "bn" in key and "num_batches" not in key:
                value.copy_(torch.rand(value.shape, generator=generator, dtype=torch.float64) + 0.5)
    s = network.state_dict()

    def normalise(h, at):
        at_channel = (slice(None), None, None)
        scale = s[at + ".weight"] / (s[at + ".running_var"] + 1e-5).sqrt()
        return scale[at_channel] * (h - s[at + ".running_mean"][at_channel]) + s[at + ".bias"][at_channel]

    h = normalise(conv2d(x, s["conv1.weight"], padding=1), "bn1").relu()
    for stage in (1, 2, 3):
        for block in range(3):
            at = f"layer{stage}.{block}."
            stride = 2 if stage > 1 and block == 0 else 1
            shortcut = h
            if stride == 2:
                half = h.shape[1] // 2
                shortcut = pad(h[:, :, ::2, ::2], (0, 0, 0, 0, half, half))
            u = normalise(conv2d(h, s[at + "conv1.weight"], stride=stride, padding=1), at + "bn1").relu()
            h = (normalise(conv2d(u, s[at + "conv2.weight"], padding=1), at + "bn2") + shortcut).relu()
    expected = linear(h.mean((2, 3)), s["linear.weight"], s["linear.bias"])
    torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("lenet", {"image_shape": (1, 28, 28)}, "32 x 32 for LeNet, got 28 x 28"),
        ("vit", {"image_shape": (1, 30, 32)}, "patch size 4, got 30 x 32"),
        ("mlp-mixer", {"patch_size": 5}, "patch size 5, got 32 x 32"),
        ("vit", {"num_heads": 7}, "num_heads to divide width 256, got 7"),
    ],
)
def test_shapes_that_do_not_fit(name, options, says):
    with pytest.raises(InvalidArgumentError, match=says):
        build(name, **options)


def test_unknown_activation():
    with pytest.raises(
        UsageError, match="activations relu, tanh, swish, gelu, got 'swich'; did you mean swish"
    ):
        build("mlp", activation="swich")
