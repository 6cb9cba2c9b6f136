"""Options of gpu_proof.py."""

from dataclasses import dataclass

from sslortho.options import Options, option


@dataclass(frozen=True, kw_only=True)
class ProofOptions(Options):
    """Verify and measure on a GPU all that the documentation calls unmeasured there, in order of worth.
    The same command goes on where it stopped. Results: OUT/gpu_proof.json and OUT/tables.md."""

    out: str = option("runs/gpu_proof", group="output", path=True)
    """Folder of the results, and of what is needed to go on: OUT/work may be large."""
    minutes: float = option(30.0, unit="minutes")
    """Time of this command. It ends a little earlier rather than later."""
    train_minutes: float = option(10.0, unit="minutes")
    """Time for the pretrainings on CIFAR-10 together; their number of epochs is chosen once to fit it."""
    cifar: str | None = option(None, group="data", path=True)
    """Folder of CIFAR-10 as images, train/CLASS and test/CLASS. Without it nothing is trained on."""
    photographs: str | None = option(None, group="data", path=True)
    """Folder of photographs, for the rate of a ResNet-50. Default: pictures of noise are made."""
    only: str | None = option(None)
    """Comma-separated names of units, or beginnings of names such as 'step'. Default: all."""
    rehearse: bool = option(False, group="hardware")
    """Run everything at toy size on the CPU: no figure of it means anything."""
    retry: bool = option(False)
    """Run units again that failed."""
    debug: bool = option(False, group="output", rare=True)
    """Show the traceback of a user's error."""

    def __post_init__(self) -> None:
        for name in ("minutes", "train_minutes"):
            self._check(name, getattr(self, name) > 0, "above 0")
        super().__post_init__()
