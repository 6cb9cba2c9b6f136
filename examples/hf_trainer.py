"""The Hugging Face Trainer on orthonormal gradients: a small ViT, from its configuration alone.

    python scripts/examples/hf_trainer.py

To such a script, three lines:

    +from sslortho.optim import OrthSGD, param_groups
    -trainer = Trainer(model, arguments, train_dataset=train, ...)
    +optimizer = OrthSGD(param_groups(model), lr=arguments.learning_rate, momentum=0.9)
    +trainer = Trainer(model, arguments, train_dataset=train, ..., optimizers=(optimizer, None))

None for the scheduler leaves it to the Trainer (`lr_scheduler_type`, `warmup_steps`). The optimizer takes
nothing from `arguments`: not the rate, not `weight_decay`. `optimizer_cls_and_kwargs=(OrthSGD, {...})`
works too, but there the Trainer makes the groups, by name, without ours: grouped convolutions would
be one matrix. Under FSDP and with `model_init` the Trainer refuses `optimizers=`: there, override its
`create_optimizer` to set `self.optimizer`.

transformers keeps q, k and v as dense layers of their own, each one matrix here. Clipping
(`max_grad_norm`, 1 by default) comes before the orthonormalisation, which undoes it for these weights:
set it to 0.
"""

import argparse
import tempfile
from typing import Any

import numpy as np
from digit_images import DigitImages
from torch import Tensor
from torch.utils.data import Dataset, Subset
from torchvision.transforms.functional import to_tensor
from transformers import (
    EvalPrediction,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)

from sslortho.optim import OrthSGD, param_groups


class DigitExamples(Dataset):
    """The digits as a model of transformers takes them."""

    def __init__(self, train: bool) -> None:
        self.images = DigitImages(train, transform=to_tensor)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        image, label = self.images[index]
        return {"pixel_values": image, "labels": label}


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Per cent of the images that the largest logit names."""
    right = np.argmax(prediction.predictions, axis=-1) == prediction.label_ids
    return {"accuracy": 100 * float(np.mean(right))}


def make_model() -> ViTForImageClassification:
    """A vision transformer of 0.2 million parameters, 16 patches an image."""
    return ViTForImageClassification(
        ViTConfig(
            image_size=32,
            patch_size=8,
            hidden_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=128,
            num_labels=10,  # pyright: ignore[reportCallIssue]
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="the Hugging Face Trainer and Orthogonal-SGDM")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.005)
    parser.add_argument("--subset", type=int, help="images to train on; all without")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    set_seed(args.seed)

    model = make_model()
    train: Any = DigitExamples(train=True)
    train = Subset(train, range(args.subset or len(train)))
    with tempfile.TemporaryDirectory() as folder:  # yours would be kept
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=args.epochs,
            per_device_train_batch_size=args.batch_size,
            per_device_eval_batch_size=args.batch_size,
            learning_rate=args.lr,
            lr_scheduler_type="cosine",
            max_grad_norm=0.0,
            seed=args.seed,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        optimizer = OrthSGD(param_groups(model), lr=arguments.learning_rate, momentum=0.9)
        trainer = Trainer(
            model,
            arguments,
            train_dataset=train,
            eval_dataset=DigitExamples(train=False),
            compute_metrics=accuracy,
            optimizers=(optimizer, None),
        )
        untrained = trainer.evaluate()["eval_accuracy"]
        trainer.train()
        trained = trainer.evaluate()["eval_accuracy"]
    print(f"accuracy on test digits: untrained {untrained:.1f} %, trained {trained:.1f} %")


if __name__ == "__main__":
    main()
