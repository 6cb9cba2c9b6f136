# %% [markdown]
# # Swap the optimizer in a script that you have
#
# A small contrastive learner in plain PyTorch is trained twice: with SGD, and with Orthogonal-SGD. Two lines differ. Each optimizer is tried
# at the same five rates, since a comparison at one rate says nothing.

# %% tags=["parameters"]
EPOCHS = 12
RATES = {"SGD": [0.01, 0.03, 0.1, 0.3, 1.0], "OrthSGD": [0.01, 0.03, 0.1, 0.3, 1.0]}

# %%
import matplotlib.pyplot as plt
import sklearn.datasets
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from sslortho.losses import NTXentLoss
from sslortho.optim import OrthSGD, param_groups

digits = sklearn.datasets.load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
train, test = images[:1437], images[1437:]
labels, test_labels = digits.target[:1437], digits.target[1437:]

# %% [markdown]
# ## Network, views, and how good the features are


# %%
def create_network():
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=2, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Flatten(),
    )
    return backbone, nn.Sequential(nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 64))


def view(batch):
    """Shift by up to a pixel, change of contrast, noise: (n, 1, 8, 8)."""
    shifts = torch.randint(-1, 2, (len(batch), 2))
    moved = torch.stack([x.roll(tuple(s.tolist()), (1, 2)) for x, s in zip(batch, shifts)])
    return moved * (0.6 + 0.8 * torch.rand(len(batch), 1, 1, 1)) + 0.1 * torch.randn_like(moved)


def accuracy(backbone):
    backbone.eval()
    with torch.no_grad():
        features, queries = backbone(train), backbone(test)
    backbone.train()
    neighbours = KNeighborsClassifier(5, metric="cosine").fit(features, labels)
    return 100 * neighbours.score(queries, test_labels)


# %% [markdown]
# ## The loop, and the two lines


# %%
def learn(name, lr):
    backbone, projector = create_network()
    model = nn.ModuleList([backbone, projector])
    if name == "SGD":
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    else:
        optimizer = OrthSGD(
            param_groups(model), lr=lr, momentum=0.9
        )  # the line that differs; the import is the other
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    loss_function, curve = NTXentLoss(temperature=0.5), []
    torch.manual_seed(1)
    for _ in range(EPOCHS):
        total = 0.0
        for batch in torch.randperm(len(train)).split(128)[:-1]:
            x = train[batch]
            loss = loss_function(projector(backbone(view(x))), projector(backbone(view(x))))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        schedule.step()
        curve.append(total / 11)
    return curve, accuracy(backbone)


print(f"untrained: {accuracy(create_network()[0]):.1f} %")
results = {(name, lr): learn(name, lr) for name, rates in RATES.items() for lr in rates}
for (name, lr), (curve, top1) in results.items():
    print(f"{name:8} lr {lr:<6} loss {curve[-1]:.3f}   kNN {top1:.1f} %")

# %% [markdown]
# ## Loss of the best rate, and of every rate
#
# The best rate is that of the lowest loss at the end. No label decides.

# %%
figure, (curves, ends) = plt.subplots(1, 2, figsize=(10, 4))
for name, rates in RATES.items():
    losses = [results[name, lr][0][-1] for lr in rates]
    best = rates[losses.index(min(losses))]
    curves.plot(range(1, EPOCHS + 1), results[name, best][0], label=f"{name}, lr {best}")
    ends.plot(rates, losses, marker="o", label=name)
curves.set(xlabel="epoch", ylabel="contrastive loss")
ends.set(xlabel="rate", ylabel="loss of the last epoch", xscale="log")
for axis in (curves, ends):
    axis.grid(alpha=0.3)
    axis.legend()
plt.tight_layout()
plt.show()

# %% [markdown]
# One seed, a small network and easy images: this shows how, not how much. [Results](../../docs/results.md) has the comparisons that count,
# and [rates](../../docs/rates.md) why a rate of SGD says nothing about one of OrthSGD.
