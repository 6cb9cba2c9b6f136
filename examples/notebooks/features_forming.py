# %% [markdown]
# # Features while they form
#
# What does a network know after each epoch? One checkpoint of each epoch is kept, and each maps the same 360 test digits. Colours are
# the digits' classes. The training did not see them.

# %% tags=["parameters"]
MODEL = "resnet20"
EPOCHS = 6  # two minutes on two CPU cores
OPTIONS = {}  # of sslortho.pretrain

# %%
import matplotlib.pyplot as plt

import sslortho

run = sslortho.pretrain(
    data="digits",
    model=MODEL,
    epochs=EPOCHS,
    evaluate_every=1,
    keep_last=1000,
    out="runs/forming",
    trackers="none",
    linear_probe=False,
    **OPTIONS,
)
print(f"kNN {run.summary['knn_top1']:.1f} %, untrained {run.summary['untrained_knn_top1']:.1f} %")

# %% [markdown]
# ## A strip
#
# The same from a shell: `sslortho feature_strip runs/forming --method tsne --out strip.png`. Each map starts from the one before, and is
# turned to fit it. t-SNE keeps neighbours together; how far two groups are from each other means little.

# %%
from IPython.display import Image

threads = {name: value for name, value in OPTIONS.items() if name == "threads"}
strip = sslortho.map_training(run.folder, method="tsne", out="strip.png", **threads)
Image("strip.png", width=1100)

# %% [markdown]
# ## The same, moving
#
# With a name that ends in .gif every checkpoint is a frame.

# %%
moving = sslortho.map_training(
    run.folder, method="tsne", panels=EPOCHS + 1, out="strip.gif", **threads
)
Image("strip.gif")

# %% [markdown]
# ## Does it get better?
#
# Accuracy of the 20 nearest neighbours after each epoch. One test digit is 0.3 points.

# %%
from sslortho.train.records import read_metrics

records = [r for r in read_metrics(run.folder / "metrics.jsonl") if "knn_top1" in r]
figure, axis = plt.subplots(figsize=(6, 3.5))
axis.plot([r["step"] for r in records], [r["knn_top1"] for r in records], marker="o")
axis.set(xlabel="step", ylabel="kNN accuracy, test digits (%)")
axis.grid(alpha=0.3)
plt.show()

# %% [markdown]
# Digits are easy: the untrained network knows much of them already. [Results](../../docs/results.md) has figures that count, and
# [did it work?](../../docs/reading_results.md) says what to look at in a run of your own.
