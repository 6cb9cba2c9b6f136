"""The Hugging Face Trainer with Orthogonal-SGDM: a small ViT, untrained at the start.

    python examples/hf_trainer.py

Needs transformers. Three lines change in such a script:

    +from sslortho.optim import OrthSGD, param_groups
    -trainer = Trainer(model, arguments, train_dataset=train, ...)
    +optimizer = OrthSGD(param_groups(model), lr=arguments.learning_rate, momentum=0.9)
    +trainer = Trainer(model, arguments, train_dataset=train, ..., optimizers=(optimizer, None))

With None for the scheduler the Trainer creates it (`lr_scheduler_type`, `warmup_steps`). The optimizer
does not read `arguments`: neither the learning rate nor `weight_decay`.
`optimizer_cls_and_kwargs=(OrthSGD, {...})` works too, but then the Trainer makes the groups by name, and
a grouped convolution is treated as one matrix. Under FSDP and with `model_init` the Trainer refuses
`optimizers=`: override its `create_optimizer` to set `self.optimizer`.

transformers has separate layers for q, k and v, so each is one matrix here. The Trainer clips gradients
(`max_grad_norm`, 1 by default) before the orthonormalisation, which undoes the clipping of these
weights: set it to 0.
"""

import argparse
import tempfile
from typing import Any

import numpy as np
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

from digit_images import DigitImages
from sslortho.optim import OrthSGD, param_groups


class DigitExamples(Dataset):
    """The digits as dictionaries, the input of a transformers model."""

    def __init__(self, train: bool) -> None:
        self.images = DigitImages(train, transform=to_tensor)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        image, label = self.images[index]
        return {"pixel_values": image, "labels": label}


def compute_accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Top-1 accuracy in per cent."""
    right = np.argmax(prediction.predictions, axis=-1) == prediction.label_ids
    return {"accuracy": 100 * float(np.mean(right))}


def make_model() -> ViTForImageClassification:
    """A vision transformer of 0.2 million parameters; 16 patches an image."""
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
    parser = argparse.ArgumentParser(description="The Hugging Face Trainer and Orthogonal-SGDM")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.005)
    parser.add_argument("--subset", type=int, help="number of training images; default: all")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    set_seed(args.seed)

    model = make_model()
    train: Any = DigitExamples(train=True)
    train = Subset(train, range(args.subset or len(train)))
    with tempfile.TemporaryDirectory() as folder:  # your output_dir would be kept
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
            compute_metrics=compute_accuracy,
            optimizers=(optimizer, None),
        )
        untrained = trainer.evaluate()["eval_accuracy"]
        trainer.train()
        trained = trainer.evaluate()["eval_accuracy"]
    print(f"accuracy on test digits: untrained {untrained:.1f} %, trained {trained:.1f} %")


if __name__ == "__main__":
    main()
