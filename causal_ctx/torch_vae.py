"""The lightweight VAE with its context module as a plain PyTorch program, for comparison of speed only: same layers, batch, loss and optimiser.

Written as a user of PyTorch would. Needs the extra [bench]; nothing else here imports PyTorch.
"""

from collections.abc import Callable

import ml_collections
import torch
from torch import nn


class ContextModule(nn.Module):
    """Noise, expressive and causal layers for micro-batches of one context: targets is a list of intervened concepts."""

    def __init__(self, k: int, w_in: int, w_out: int, features: int):
        super().__init__()
        uniform = lambda *shape, bound: nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        off = max((k - 1) * w_out, 1)
        self.k, self.w_in = k, w_in
        self.obs, self.ivn = (uniform(k, w_in, w_in, bound=w_in**-0.5) for _ in range(2))
        self.bias = uniform(k, w_in, bound=w_in**-0.5)
        self.expressive, self.expressive_bias = uniform(k, w_in, w_out, bound=w_in**-0.5), uniform(k, w_out, bound=w_in**-0.5)
        self.norm = nn.BatchNorm1d(k * w_out)
        self.causal_obs, self.causal_ivn = (uniform(k, w_out, k, w_out, bound=off**-0.5) for _ in range(2))
        self.causal_bias = uniform(k, w_out, bound=off**-0.5)
        self.unpool = nn.Linear(k * w_out, features)

    def forward(self, z, targets):
        t = torch.zeros(self.k, device=z.device)
        t[targets] = 1
        kernel = torch.where(t[:, None, None] == 1, self.ivn, self.obs)
        x = nn.functional.gelu(torch.einsum("bkw,kvw->bkv", z.view(-1, self.k, self.w_in), kernel) + self.bias)
        x = torch.einsum("bkw,kwv->bkv", x, self.expressive) + self.expressive_bias
        x = nn.functional.gelu(self.norm(x.flatten(1))).view(-1, self.k, self.causal_bias.shape[1])
        hears, speaks, off = t[:, None, None, None], t[None, None, :, None], 1 - torch.eye(self.k, device=z.device)[:, None, :, None]
        blocks = off * (speaks * self.causal_ivn + (1 - speaks) * (1 - hears) * self.causal_obs)
        return self.unpool((x + torch.einsum("bjw,ivjw->biv", x, blocks) + self.causal_bias).flatten(1))


class VAE(nn.Module):
    """conv64 or conv28: images [B, C, H, W] in [0, 1] and targets -> loss in nats per image."""

    def __init__(self, model: ml_collections.ConfigDict, k: int, image_shape: tuple[int, int, int]):
        super().__init__()
        h, _, c = image_shape
        features, latents = model.features, k * model.noise_width
        if model.backbone == "conv64":
            down = lambda a, b: [nn.Conv2d(a, b, 4, 2, 1), nn.ReLU(), nn.BatchNorm2d(b)]
            up = lambda a, b: [nn.ConvTranspose2d(a, b, 4, 2, 1), nn.ReLU(), nn.BatchNorm2d(b)]
            side = h // 16
            encoder = [*down(c, 32), *down(32, 64), *down(64, 128), *down(128, 256), nn.Flatten(), nn.Linear(side**2 * 256, features), nn.ReLU()]
            head = [nn.Linear(features, features), nn.ReLU(), nn.Linear(features, side**2 * 256), nn.ReLU(), nn.Unflatten(1, (256, side, side))]
            decoder = [*head, *up(256, 128), *up(128, 64), *up(64, 32), nn.ConvTranspose2d(32, c, 4, 2, 1)]
        else:
            down = lambda a, b, *how: [nn.Conv2d(a, b, *how), nn.BatchNorm2d(b), nn.ReLU()]
            up = lambda a, b, *how: [nn.ConvTranspose2d(a, b, *how), nn.BatchNorm2d(b), nn.ReLU()]
            encoder = [*down(c, 32, 4, 2, 1), *down(32, 64, 4, 2, 1), *down(64, 128, 7), nn.Flatten(), nn.Linear(128, features), nn.ReLU()]
            head = [nn.Linear(features, features), nn.ReLU(), nn.Linear(features, 128), nn.ReLU(), nn.Unflatten(1, (128, 1, 1))]
            decoder = [*head, *up(128, 64, 7), *up(64, 32, 4, 2, 1), nn.ConvTranspose2d(32, c, 4, 2, 1)]
        self.encoder, self.decoder = nn.Sequential(*encoder), nn.Sequential(*decoder)
        self.posterior = nn.Linear(features, 2 * latents)
        self.module = ContextModule(k, model.noise_width, model.concept_width, features)

    def forward(self, x, targets):
        mean, log_variance = self.posterior(self.encoder(x)).chunk(2, 1)
        z = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
        logits = self.decoder(self.module(z, targets))
        reconstruction = nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        return (reconstruction - 0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum()) / len(x)


def stepper(config: ml_collections.ConfigDict, k: int, image_shape: tuple[int, int, int], steps: int) -> Callable[[], None]:
    """A function that takes `steps` optimiser steps on random bytes, on the GPU if there is one: gradients of the micro-batches averaged, then Adam."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = VAE(config.model, k, image_shape).to(device)
    optimizer = torch.optim.Adam(model.parameters(), config.train.learning_rate)
    h, w, c = image_shape
    micro_batches, n = config.train.batch_size // config.train.micro_batch, config.train.micro_batch
    images = torch.randint(0, 256, (micro_batches, n, c, h, w), dtype=torch.uint8, device=device)

    def step():
        for _ in range(steps):
            optimizer.zero_grad()
            for index, batch in enumerate(images):
                (model(batch.float() / 255, [index % k]) / micro_batches).backward()
            optimizer.step()
            with torch.no_grad():
                for weights in (model.module.causal_obs, model.module.causal_ivn):
                    weights.clamp_(0, 1)
        if device == "cuda":
            torch.cuda.synchronize()

    return step
