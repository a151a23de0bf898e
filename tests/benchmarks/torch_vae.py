"""The conv64 VAE with its context module as a plain PyTorch program, for comparison of speed only: same layers, batch, loss and optimiser."""

import torch
from torch import nn

K, W_IN, W_OUT = 6, 32, 8


class ContextModule(nn.Module):
    """Noise, expressive and causal layers for micro-batches of one context: targets is a list of intervened concepts."""

    def __init__(self):
        super().__init__()
        uniform = lambda *shape, bound: nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.obs, self.ivn = (uniform(K, W_IN, W_IN, bound=W_IN**-0.5) for _ in range(2))
        self.bias = uniform(K, W_IN, bound=W_IN**-0.5)
        self.expressive, self.expressive_bias = uniform(K, W_IN, W_OUT, bound=W_IN**-0.5), uniform(K, W_OUT, bound=W_IN**-0.5)
        self.norm = nn.BatchNorm1d(K * W_OUT)
        self.causal_obs, self.causal_ivn = (uniform(K, W_OUT, K, W_OUT, bound=((K - 1) * W_OUT) ** -0.5) for _ in range(2))
        self.causal_bias = uniform(K, W_OUT, bound=((K - 1) * W_OUT) ** -0.5)
        self.unpool = nn.Linear(K * W_OUT, 128)

    def forward(self, z, targets):
        t = torch.zeros(K)
        t[targets] = 1
        kernel = torch.where(t[:, None, None] == 1, self.ivn, self.obs)
        x = nn.functional.gelu(torch.einsum("bkw,kvw->bkv", z.view(-1, K, W_IN), kernel) + self.bias)
        x = torch.einsum("bkw,kwv->bkv", x, self.expressive) + self.expressive_bias
        x = nn.functional.gelu(self.norm(x.flatten(1))).view(-1, K, W_OUT)
        hears, speaks, off = t[:, None, None, None], t[None, None, :, None], 1 - torch.eye(K)[:, None, :, None]
        blocks = off * (speaks * self.causal_ivn + (1 - speaks) * (1 - hears) * self.causal_obs)
        return self.unpool((x + torch.einsum("bjw,ivjw->biv", x, blocks) + self.causal_bias).flatten(1))


class VAE(nn.Module):
    """The conv64 VAE: images [B, 3, 64, 64] and targets -> loss in nats per image."""

    def __init__(self):
        super().__init__()
        down = lambda a, b: [nn.Conv2d(a, b, 4, 2, 1), nn.ReLU(), nn.BatchNorm2d(b)]
        up = lambda a, b: [nn.ConvTranspose2d(a, b, 4, 2, 1), nn.ReLU(), nn.BatchNorm2d(b)]
        self.encoder = nn.Sequential(*down(3, 32), *down(32, 64), *down(64, 128), *down(128, 256), nn.Flatten(), nn.Linear(4096, 128), nn.ReLU())
        self.posterior = nn.Linear(128, 2 * K * W_IN)
        self.module = ContextModule()
        head = [nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 4096), nn.ReLU(), nn.Unflatten(1, (256, 4, 4))]
        self.decoder = nn.Sequential(*head, *up(256, 128), *up(128, 64), *up(64, 32), nn.ConvTranspose2d(32, 3, 4, 2, 1))

    def forward(self, x, targets):
        mean, log_variance = self.posterior(self.encoder(x)).chunk(2, 1)
        z = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
        logits = self.decoder(self.module(z, targets))
        reconstruction = nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        return (reconstruction - 0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum()) / len(x)


def stepper(micro_batches: int, micro_batch: int):
    """A function that takes one optimiser step on random bytes: gradients of `micro_batches` averaged, then Adam."""
    torch.manual_seed(0)
    model = VAE()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    images = torch.randint(0, 256, (micro_batches, micro_batch, 3, 64, 64), dtype=torch.uint8)

    def step():
        optimizer.zero_grad()
        for index, batch in enumerate(images):
            (model(batch.float() / 255, [index % K]) / micro_batches).backward()
        optimizer.step()
        with torch.no_grad():
            for weights in (model.module.causal_obs, model.module.causal_ivn):
                weights.clamp_(0, 1)

    return step
