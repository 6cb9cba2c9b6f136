# %% [markdown]
# # Your own images in ten minutes
#
# From a folder of images without labels to features, neighbours and a verdict. Change `FOLDER` and run all cells. If there is no such
# folder, the two photographs that come with scikit-learn are cut into small squares, so that there is something to look at.
#
# The outputs below are of 5,000 photographs of CIFAR-10 (as JPEG files, 32 pixels wide), 500 of each class. The network did not see the
# classes. It is a small network, and it trained for eleven minutes on one CPU core, beside other programs.

# %% tags=["parameters"]
FOLDER = "photos"  # your folder of images
MODEL = "resnet20"  # small and quick; for photographs on a GPU resnet18 or resnet50
EPOCHS = 5

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import sklearn.datasets
from PIL import Image, ImageOps

import sslortho

if not Path(FOLDER).exists():
    FOLDER = "squares"
    Path(FOLDER).mkdir(exist_ok=True)
    for name, photo in zip(("temple", "flower"), sklearn.datasets.load_sample_images().images):
        for top in range(0, photo.shape[0] - 64, 40):
            for left in range(0, photo.shape[1] - 64, 48):
                square = Image.fromarray(photo[top : top + 64, left : left + 64])
                square.save(f"{FOLDER}/{name}-{top}-{left}.png")
files = sorted(path for path in Path(FOLDER).rglob("*") if path.is_file())
print(len(files), "files")

# %% [markdown]
# ## Train
#
# What is left out is chosen to fit the images, and printed. The same call goes on with a run that was interrupted.

# %%
run = sslortho.pretrain(
    data=FOLDER, model=MODEL, crop_size=32, epochs=EPOCHS, out="runs/own", trackers="none"
)

# %% [markdown]
# ## What the network saw
#
# Each column shows two views of one image. You should be able to tell that they belong together.


# %%
def show(path, width=10):
    picture = Image.open(path)
    plt.figure(figsize=(width, width * picture.height / picture.width))
    plt.imshow(picture)
    plt.axis("off")
    plt.tight_layout(pad=0)
    plt.show()


show(run.folder / "views.png")

# %% [markdown]
# ## Did it work?
#
# Each figure stands beside that of the same network before training.

# %%
print("verdict:", run.summary["verdict"]["name"])
for name in ("rankme", "neighbour_agreement", "pair_ranking"):
    print(f"{name:20} {run.summary[name]:6.1f}   untrained {run.summary['untrained_' + name]:6.1f}")

# %% [markdown]
# Loss, and figures that need no labels, against steps:

# %%
show(run.folder / "curves.png")

# %% [markdown]
# ## Neighbours
#
# Left, in a frame, the image that is asked about; beside it those with the most similar features. After so short a training these are
# alike in colour and composition, and only sometimes in what they show.

# %%
found = sslortho.extract_features(run.folder, FOLDER)
count = len(found.names)
queries = [count * place // 100 for place in (4, 17, 48, 71, 84, 95)]
nearest = sslortho.find_neighbours(found, queries, k=8)
figure, rows = plt.subplots(len(queries), 9, figsize=(10, 6.7))
for row, query, names in zip(rows, queries, nearest.names):
    for axis, name in zip(row, [found.names[query], *names]):
        picture = ImageOps.exif_transpose(Image.open(Path(FOLDER) / name)).convert("RGB")
        axis.imshow(picture, interpolation="bicubic")
        axis.set(xticks=[], yticks=[])
    for spine in row[0].spines.values():
        spine.set(linewidth=4, color="#CC3311")
plt.tight_layout(pad=0.2)
plt.show()

# %% [markdown]
# ## A map
#
# Images that are near each other have similar features: here the sea and the sky, red cars, grass, animals on brown ground. At most 500
# are drawn.

# %%
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

method = "tsne" if count > 60 else "pca"
places, rows, _ = sslortho.map_features(found, method, points=500)
figure, axis = plt.subplots(figsize=(10, 9))
axis.scatter(*places.T, s=1)
for row, place in zip(rows.tolist(), places.tolist()):
    photo = ImageOps.exif_transpose(Image.open(Path(FOLDER) / found.names[row]))
    thumbnail = photo.convert("RGB").resize((32, 32))
    box = AnnotationBbox(OffsetImage(thumbnail, zoom=0.75), place, frameon=False)
    axis.add_artist(box)
axis.axis("off")
plt.tight_layout(pad=0)
plt.show()

# %% [markdown]
# Next: [choosing](../../docs/choosing.md) method, network and length; [features in a file](../../docs/features.md) for your own program;
# [verdicts](../../docs/reading_results.md) and what to try.
