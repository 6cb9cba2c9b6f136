"""sslortho's optimizers in timm's registry: after `import sslortho.timm`, timm's factory knows them.

    import sslortho.timm
    optimizer = timm.optim.create_optimizer_v2(model, opt="orth_sgd", lr=0.1, weight_decay=5e-4)

To run a script unchanged, such as timm's train.py, with the optimizers registered:

    python -m sslortho.timm train.py DATA --model resnet18 --opt orth_sgd

| opt                          | class                     | options beside timm's                    |
|------------------------------|---------------------------|------------------------------------------|
| orth_sgd                     | OrthSGD                   | polar, rank_tol, share, nesterov         |
| orth_adam, orth_adamw        | OrthAdam(W)               | polar, rank_tol, share                   |
| orth_lars                    | OrthLARS                  | those of orth_sgd, and trust_coefficient |
| norm_sgd, component_norm_sgd | NormSGD, ComponentNormSGD | nesterov                                 |
| sslortho_lars                | LARS                      | trust_coefficient, nesterov              |
| sslortho_muon                | Muon                      | scale, adamw_lr, normalise_rows, polar,  |
|                              |                           | decoupled_weight_decay, rank_tol, share  |

`lars` and `muon` stay timm's, other dialects; compare orth_lars with `sslortho_lars`. Without a rate each takes
that of what it is built on: torch's 0.001, 0.2 for the two of LARS (timm's `lars` takes 1), and Muon's 0.02
with 0.0003 for AdamW. timm's default momentum is 0.9, for Muon too; its author's is 0.95. `nesterov` is False
here, as in the paper, and True in Muon; in timm's `sgd` it is True. Gradients are clipped
before they are orthonormalised, so `--clip-grad` by norm has no effect on matrices.

**Names.** timm looks up what follows the last underscore of a name, so it would silently take its own
`sgd` for "orth_sgd". Therefore this module wraps `create_optimizer` of timm's registry to read our names
whole. Each name is registered with a hyphen too ("orth-sgd"), which timm reads whole by itself: without
this module "orth-sgd" is an error, while "orth_sgd" trains timm's SGD.

**Which layers.** timm hands an optimizer parameters without their modules, in groups by decay (or,
with `layer_decay`, by depth: its scheduler scales the rate). Then only the shape is known:

| parameter                                         | timm's groups            | `param_groups`          |
|---------------------------------------------------|--------------------------|-------------------------|
| dense, convolution                                | one matrix               | one matrix              |
| grouped convolution (out, in/groups, kh, kw)      | one matrix over groups   | a matrix a group        |
| depthwise convolution (channels, 1, kh, kw)       | one, channels x kh kw    | a row a channel         |
| transposed convolution                            | rows are inputs          | rows are outputs        |
| q, k, v; heads                                    | one matrix               | one; `attention="heads"`|
| position table (1, tokens, dim), class token      | one row: its norm is 1   | raw                     |
| position table (tokens, dim), relative biases     | one matrix               | one matrix              |
| `nn.Embedding`                                    | one matrix               | raw                     |
| norm, bias, layer scale of one dimension          | raw                      | raw                     |
| bias or gain of more dimensions, (1, c, 1, 1)     | one row: its norm is 1   | raw                     |
| magnitude of weight_norm, gain, (out, 1, 1, 1)    | one column: its norm is 1| raw                     |

The right column is

    create_optimizer_v2(model, opt="orth_sgd", lr=0.1, weight_decay=5e-4,
                        param_group_fn=functools.partial(param_groups, orth="all"))

with `sslortho.optim.param_groups`. The decay then spares norms and biases, but not what a model names in
`no_weight_decay()` (position tables), and `layer_decay` is not read: that is timm's rule for any
`param_group_fn`. `fallback_list`, which timm has for Muon, has no effect on our optimizers.
"""

import argparse
import functools
import runpy
import sys
from pathlib import Path
from typing import Any

from sslortho.optim import OPTIMIZERS

NAMES = {
    "orth_sgd": "orth_sgd",
    "orth_adam": "orth_adam",
    "orth_adamw": "orth_adamw",
    "orth_lars": "orth_lars",
    "norm_sgd": "norm_sgd",
    "component_norm_sgd": "component_norm_sgd",
    "sslortho_lars": "lars",
    "sslortho_muon": "muon",
}
"""Name in timm -> name in `sslortho.optim.OPTIMIZERS`."""

MARK = "reads_sslortho_names"
"""Attribute that marks a `create_optimizer` as wrapped."""


def hyphenated(opt: str) -> str:
    """Hyphenate our names, which timm then reads whole: "orth_sgd" -> "orth-sgd".

    Also behind "lookahead_"; other names are returned unchanged.
    """
    prefix = "lookahead_"
    name = opt.lower()
    ahead, name = (prefix, name[len(prefix) :]) if name.startswith(prefix) else ("", name)
    return ahead + name.replace("_", "-") if name in NAMES else opt


def _read_names_whole(registry: Any) -> None:
    """Wrap `registry.create_optimizer`, once, so that it finds our names."""
    original = registry.create_optimizer
    if hasattr(original, MARK):
        return

    @functools.wraps(original)
    def create_optimizer(model_or_params: Any, opt: str, *args: Any, **kwargs: Any) -> Any:
        return original(model_or_params, hyphenated(opt), *args, **kwargs)

    setattr(create_optimizer, MARK, True)
    registry.create_optimizer = create_optimizer


def register_optimizers() -> None:
    """Register the optimizers of NAMES in timm; a second call changes nothing.

    Raises:
        ImportError: timm is missing, or older than 1.0.12 and so without a registry of optimizers.
    """
    try:
        import timm
    except ImportError as error:
        raise ImportError("sslortho.timm needs timm: pip install 'timm>=1.0.12'") from error
    try:
        from timm.optim._optim_factory import OptimInfo, default_registry
    except ImportError as error:
        raise ImportError(
            f"timm {timm.__version__} has no registry of optimizers, which came with 1.0.12: "
            "pip install 'timm>=1.0.12'"
        ) from error

    registered = set(default_registry.list_optimizers())
    for name, ours in NAMES.items():
        cls = OPTIMIZERS[ours]
        is_adam = ours in ("orth_adam", "orth_adamw")
        for key in (name, hyphenated(name)):
            if key in registered and default_registry.get_optimizer_info(key).opt_class is cls:
                continue
            info = OptimInfo(
                name=key,
                opt_class=cls,
                description=f"sslortho's {cls.__name__} (arXiv 2202.07052)",
                has_eps=is_adam or ours == "muon",
                has_betas=is_adam or ours == "muon",
                has_momentum=not is_adam,
            )
            default_registry.register(info)
    _read_names_whole(default_registry)


def run_script(arguments: list[str]) -> None:
    """Run a Python script as `python SCRIPT ARGUMENTS...` does, with the optimizers registered.

    The folder of the script comes first on `sys.path`, so a timm in that folder goes before an installed
    one.

    Args:
        arguments: the script's path and its own arguments. A missing script exits with status 2.
    """
    parser = argparse.ArgumentParser(
        prog="python -m sslortho.timm",
        description="Run a script with sslortho's optimizers in timm's registry.",
    )
    parser.add_argument("script", help="path of a Python script, such as timm's train.py")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments of the script")
    options = parser.parse_args(arguments)
    script = Path(options.script)
    if not script.is_file():
        parser.error(f"script={options.script!r} is not a file; give the path of a Python script")
    folder = str(script.resolve().parent)
    if getattr(sys.flags, "safe_path", False):  # then python puts no folder of this module there
        sys.path.insert(0, folder)
    else:
        sys.path[0] = folder
    sys.argv = [options.script, *options.arguments]
    register_optimizers()
    runpy.run_path(options.script, run_name="__main__")


# the folder of a script may hold a timm of its own, so timm is imported after the path is set
if __name__ == "__main__":
    run_script(sys.argv[1:])
else:
    register_optimizers()
