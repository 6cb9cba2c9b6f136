"""Options of `linear_eval`."""

from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from sslortho.options import option
from sslortho.recipes.options import BackboneOptions, EvaluationOptions, TrainingOptions

LOOP_OPTIONS = {f.name for f in fields(TrainingOptions)} - {f.name for f in fields(BackboneOptions)}
"""Names of the options of a training, which protocol lbfgs ignores."""


@dataclass(frozen=True, kw_only=True)
class LinearEvalOptions(TrainingOptions, EvaluationOptions):
    """Linear evaluation or fine-tuning of a backbone.

    The defaults are the published linear evaluation (facebookresearch/barlowtwins, evaluate.py), except
    for bicubic crops, a cosine by step instead of by epoch, and biases without decay.
    """

    command: ClassVar[str] = "linear_eval"

    protocol: Literal["sgd", "lbfgs"] = option("sgd", group="model and method")
    """sgd: a linear classifier trained on random crops, as published. lbfgs: a logistic regression
    fitted to its optimum on features extracted once; minutes, but not the published protocol."""
    weights: Literal["freeze", "finetune"] = option("freeze", group="model and method")
    """freeze: the backbone stays as it is, in evaluation mode. finetune: it is trained too."""
    out: str | None = None
    """Run folder. Default: runs/linear-{data}-{backbone_from}-s{seed}, or finetune-, lbfgs-."""

    views: Literal["auto", "supervised", "supervised_digits", "centre"] = option(
        "auto", group="data"
    )
    """Training views of protocol sgd. supervised: random crop and flip. supervised_digits: milder
    crops, no flip. centre: the largest square, nothing random. auto: by data."""
    optim: str = "sgd"
    """sgd, adam, adamw, lars, each also with orth_ in front, muon, norm_sgd or component_norm_sgd."""
    lr: float = 0.3
    """Learning rate of the classifier; multiplied by batch_size / 256."""
    lr_backbone: float | None = option(None, group="optimisation", unit="per 256 samples")
    """Learning rate of the backbone, with weights finetune; default 0.005."""
    orth_layers: Literal["conv", "all"] | None = None
    """Layers whose gradients orth_* and muon orthonormalise. Default all."""

    batch_size: int | None = None
    """Samples of one optimizer step, over all ranks and accumulated batches together. Default: 256, or
    fewer where there are fewer images."""
    epochs: int = 100
    """Passes over the data."""

    l2: float | None = option(None, group="optimisation", rare=True)
    """Weight of half the squared norm of the classifier, beside the mean cross-entropy, in protocol
    lbfgs. Default: chosen on held-out training images."""
    held_out: float | None = option(None, group="data", rare=True)
    """Share of the training images on which protocol lbfgs chooses l2. Default 0.1."""

    def __post_init__(self) -> None:
        self._check_least(0, "lr_backbone")
        self._check("l2", self.l2 is None or self.l2 > 0, "above 0")
        share = self.held_out
        self._check("held_out", share is None or 0 < share < 1, "between 0 and 1")
        fast = self.protocol == "lbfgs"
        if fast and self.weights == "finetune":
            raise ValueError("weights='finetune' has no effect on protocol='lbfgs'; leave one out")
        self._check_effect(
            "protocol",
            l2=not fast and self.l2 is not None,
            held_out=not fast and self.held_out is not None,
            views=fast and self.views != "auto",
        )
        self._check_effect(
            "weights", lr_backbone=self.weights == "freeze" and self.lr_backbone is not None
        )
        self._check_effect("l2", held_out=self.l2 is not None and self.held_out is not None)
        super().__post_init__()

    @property
    def without_effect(self) -> list[str]:
        """Options that were given and that protocol lbfgs, which has no training loop, ignores."""
        if self.protocol == "sgd":
            return []
        defaults = {f.name: f.default for f in fields(type(self)) if f.name in LOOP_OPTIONS}
        return sorted(name for name, value in defaults.items() if getattr(self, name) != value)

    @property
    def default_folder(self) -> str:
        kind = "lbfgs" if self.protocol == "lbfgs" else "linear"
        kind = "finetune" if self.weights == "finetune" else kind
        return f"runs/{kind}-{self.data_name}-{self.source}-s{self.seed}"
