"""What each script can be told: one frozen dataclass a script, and how a command line becomes one."""

from sslortho.config.benchmarks import BenchLoadingConfig, BenchOptimConfig
from sslortho.config.chaos import ChaosConfig
from sslortho.config.command_line import PlainParser, parse_config, user_errors
from sslortho.config.evaluation import KnnEvalConfig, LinearEvalConfig
from sslortho.config.export import ExportConfig
from sslortho.config.pretrain import PretrainConfig
from sslortho.config.reproduce import ReproduceConfig
from sslortho.config.reproduce_run import ReproduceRunConfig
from sslortho.config.run_folder import MAY_CHANGE, check_same_run, to_yaml
from sslortho.config.show_views import ShowViewsConfig
from sslortho.config.supervised import SupervisedConfig
from sslortho.config.tune import TuneConfig
from sslortho.config.write_beton import WriteBetonConfig

__all__ = [
    "MAY_CHANGE",
    "BenchLoadingConfig",
    "BenchOptimConfig",
    "ChaosConfig",
    "ExportConfig",
    "KnnEvalConfig",
    "LinearEvalConfig",
    "PlainParser",
    "PretrainConfig",
    "ReproduceConfig",
    "ReproduceRunConfig",
    "ShowViewsConfig",
    "SupervisedConfig",
    "TuneConfig",
    "WriteBetonConfig",
    "check_same_run",
    "parse_config",
    "to_yaml",
    "user_errors",
]
