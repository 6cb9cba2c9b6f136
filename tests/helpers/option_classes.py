"""The options class of every command and benchmark."""

from chaos_soak.options import ChaosOptions
from loading_bench.options import BenchLoadingOptions
from optim_bench.options import BenchOptimOptions
from proof_stages.options import ProofOptions
from sslortho.paper.reproduce.options import ReproduceOptions
from sslortho.recipes.embed.options import EmbedOptions
from sslortho.recipes.export.options import ExportOptions
from sslortho.recipes.knn_eval.options import KnnEvalOptions
from sslortho.recipes.linear_eval.options import LinearEvalOptions
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.recipes.reproduce_run.options import ReproduceRunOptions
from sslortho.recipes.show_views.options import ShowViewsOptions
from sslortho.recipes.supervised.options import SupervisedOptions
from sslortho.recipes.tune.options import TuneOptions
from sslortho.recipes.write_beton.options import WriteBetonOptions

OPTION_CLASSES = (
    BenchLoadingOptions, BenchOptimOptions, ChaosOptions, EmbedOptions, ExportOptions, KnnEvalOptions,
    LinearEvalOptions, PretrainOptions, ProofOptions, ReproduceOptions, ReproduceRunOptions,
    ShowViewsOptions, SupervisedOptions, TuneOptions, WriteBetonOptions,
)  # fmt: skip
