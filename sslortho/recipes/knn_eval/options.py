"""Options of `knn_eval`."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from sslortho.options import option
from sslortho.recipes.options import EvaluationOptions


@dataclass(frozen=True, kw_only=True)
class KnnEvalOptions(EvaluationOptions):
    """Weighted nearest neighbours on the features of a frozen backbone."""

    command: ClassVar[str] = "knn_eval"

    preset: Literal["dino", "lightly"] | None = option(None, group="model and method")
    """dino: 20 neighbours, temperature 0.07. lightly: 200, 0.1. Default dino."""
    k: int | None = option(None, group="model and method")
    """Neighbours. Default: the preset's."""
    temperature: float | None = option(None, group="model and method")
    """Each neighbour votes with exp(cosine / temperature). Default: the preset's."""
    crops: int | None = option(None, group="model and method")
    """Vote also with the mean of each image's features over this many random crops, those of the method
    emp_ssl, as its paper evaluates; crops_knn_top1 in summary.json. It takes as many passes. Default: none."""
    out: str | None = None
    """Run folder. Default: runs/knn-{data}-{backbone_from}-s{seed}."""

    def __post_init__(self) -> None:
        self._check_least(1, "k")
        self._check_least(2, "crops")
        self._check("temperature", self.temperature is None or self.temperature > 0, "above 0")
        if None not in (self.preset, self.k, self.temperature):
            raise ValueError(f"preset={self.preset!r} has no effect beside k and temperature")
        super().__post_init__()

    @property
    def default_folder(self) -> str:
        return f"runs/knn-{self.data_name}-{self.source}-s{self.seed}"
