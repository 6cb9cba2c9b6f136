"""Every command of the documentation, with the flags as documented, at small scale."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import torchvision
from helpers.script_runs import call_command, call_script
from PIL import Image

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

RECORDED = ("python", "accelerate", "sslortho", "torchrun")
"""Programs whose command lines are noted down, while bash expands variables and loops."""
SILENT = ("pip", "apt-get", "sbatch", "tensorboard", "source")
"""Programs that are not run here; sbatch has tests of its own (test_slurm.py)."""

MODEL = "--backbone basic_cnn --crop_size 32 --stem auto"
STEPS = (
    "--batch_size 8 --epochs 1 --warmup_epochs 0 --threads 1 --trackers none --mixed_precision no"
)
FEW = "--subset 16"
SMALL = {
    "pretrain": f"{MODEL} {STEPS} {FEW} --compile false --evaluate_every 1 --knn_k 3",
    "supervised": f"{MODEL} {STEPS} {FEW} --compile false --evaluate_every 1 --pictures false",
    "linear_eval": f"{STEPS} --compile false --evaluate_every 1 --pictures false",
    "knn_eval": "--k 3 --threads 1 --pictures false --mixed_precision no",
    "show_views": f"{MODEL} --batch_size 8 --count 2",
    "embed": "--threads 1",
    "neighbours": "",
    "duplicates": "",
    "feature_map": "",
    "feature_strip": "--threads 1",
    "export": "",
    "write_beton": "--workers 1 --overwrite",  # several pages write the same file
    "compare": "",
    "plot_runs": "",
    "reproduce": "--data digits --epochs 1 --seeds 1 --subset 64 --only basic_cnn,sgd --threads 1",
    "reproduce_run": "",
    "tune": (
        "--trials 1 --data digits --backbone basic_cnn --crop_size 32 --schedule cosine "
        f"--milestones null --gamma null {STEPS} --subset 80"
    ),
    "chaos": "--minutes 0.01 --faults kill",
    "verdicts": "--seeds 1 --epochs 1 --data digits --methods barlow_twins --kinds healthy --runs runs.jsonl",
    "speedrun": (
        "--config toy.yaml --seeds 0 --threads 1 --records records.jsonl --work runs/speedrun --methods simclr "
        "--factors 1 --network basic_cnn --batch_size 8"
    ),
    "bench_optim": "--models resnet18 --rounds 1 --steps 0 --batch_size 2 --image_size 32 --errors false",
    "growth": "--quick --most 1000 --parts folder_list,beton_start",
    "gpu_proof": "--rehearse --only machine",
    "bench_loading": "--images 8 --epochs 1 --batch_size 4 --workers 1 --pipelines torchvision_pil",
}
"""Name of a command to the flags that make it small; they stand behind the documented ones."""


def read_blocks():
    """The bash blocks of all pages."""
    for page in PAGES:
        if page.exists():
            for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
                yield page.name, block


def expand(block, folder):
    """The command lines of a block as lists of words, expanded by bash, nothing of it run."""
    log = folder / "log"
    log.unlink(missing_ok=True)
    record = "".join(
        f'{name}() {{ printf "%s\\0" {name} "$@" >> "$LOG"; printf "\\n" >> "$LOG"; }}\n'
        for name in RECORDED
    )
    silent = "".join(f"{name}() {{ :; }}\n" for name in SILENT)
    done = subprocess.run(
        [shutil.which("bash"), "-euc", record + silent + block],
        cwd=folder, env={"LOG": str(log), "PATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{block}\n{done.stderr}"
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return [line.split("\0")[:-1] for line in lines]


def find_command(words):
    """Name of the command and its arguments; None for a line that is no command of ours."""
    for i, word in enumerate(words):
        if re.fullmatch(r"(scripts|benchmarks)/\w+\.py", word):
            return Path(word).stem, words[i + 1 :]
        if word == "sslortho" and i + 1 < len(words):
            return words[i + 1], words[i + 2 :]
    return None


def read_commands(folder):
    """Every command of the pages once, as words: its page, name and arguments."""
    found = {}
    for page, block in read_blocks():
        for words in expand(block, folder):
            command = find_command(words)
            if command is not None and "..." not in words:
                found.setdefault(tuple(words), (page, *command))
    return found


def write_images(folder):
    """A folder of two classes of photographs' kind, to train and to test on."""
    for split in ("train", "val"):
        for label in ("a", "b"):
            (folder / split / label).mkdir(parents=True)
            for i in range(12):
                image = Image.effect_noise((40, 40), 20 + 5 * i).convert("RGB")
                image.save(folder / split / label / f"{i}.jpg")


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the data and the configurations that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "D")
    shutil.copytree(tmp_path / "D" / "train", tmp_path / "CIFAR" / "train")
    shutil.copytree(tmp_path / "D" / "train", tmp_path / "photos")
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    (tmp_path / "toy.yaml").write_text(
        "data: folder\nbackbone: basic_cnn\nprojector: 8-8\nbatch_size: 8\nepochs: 1\nwarmup_epochs: 0\nlr: 1\n"
        "linear_probe: false\n"
    )
    (tmp_path / "B").mkdir()
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    for name in ("assets", "order"):
        shutil.copytree(ROOT / "docs" / name, tmp_path / "docs" / name)
    return tmp_path


def expand_stars(argument):
    """As a shell does now, when the commands before have written their runs."""
    return sorted(map(str, Path().glob(argument))) if "*" in argument else [argument]


TUNED = ("new_methods", "order", "order_supervised")
"""Experiments that are tuned first."""


def make_small(name, arguments):
    """The arguments with those that make the command small."""
    if "--help" in arguments or not arguments or arguments[0] == "table":
        return arguments
    small = SMALL[name].split()
    if arguments[0] in TUNED:
        # The fewest trials and runs of these are 33. A report runs none.
        small = [] if "--report" in arguments else ["--dry_run"]
    if name == "pretrain" and "--method" not in arguments:
        small += ["--projector", "16-16"]
    if name == "pretrain" and "runs/x" in arguments:  # timm has neither basic_cnn nor small stems
        small += ["--backbone", "resnet18", "--stem", "stock"]
    if name in ("linear_eval", "knn_eval") and "--subset" in arguments:
        small += FEW.split()
    if name == "tune" and "--data_dir" in arguments:  # the digits need none
        at = arguments.index("--data_dir")
        arguments = [*arguments[:at], *arguments[at + 2 :]]
    if "cifar10" in arguments:  # whose files are not at hand
        small += ["--data", "folder"]
    return [*arguments, *small]


ORDER = ("write_beton", "pretrain", "supervised", "show_views", "linear_eval")
"""Commands that write what others read; those others follow in the order of the pages."""


def by_need(command):
    name = command[1][1]
    return ORDER.index(name) if name in ORDER else len(ORDER)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of choices at the edge, on so few images
def test_every_documented_command_works(workplace):
    commands = read_commands(workplace)
    assert len(commands) > 30
    for words, (page, name, arguments) in sorted(commands.items(), key=by_need):
        assert name in SMALL, f"{page}: {' '.join(words)}"
        call = call_command if "sslortho" in words else call_script
        found = [path for argument in arguments for path in expand_stars(argument)]
        done = call(name, *make_small(name, found))
        text = f"{page}: {' '.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        lists = name == "reproduce" and not arguments  # without a name it lists them, as a mistake
        expected = {"chaos": (0, 1), "reproduce": (2,) if lists else (0,)}.get(name, (0,))
        assert done.returncode in expected, text


def test_every_command_is_documented():
    from sslortho.cli import COMMANDS

    text = "\n".join(block for _, block in read_blocks())
    missing = [n for n in COMMANDS if f"scripts/{n}.py" not in text and f"sslortho {n}" not in text]
    assert missing == []
