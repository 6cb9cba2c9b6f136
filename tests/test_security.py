"""Nothing in a file of somebody else's runs. What each reader does with attacks is in its own tests."""

import ast
import contextlib
import hashlib
import pickle
import tarfile
from pathlib import Path

import pytest
import torch
import yaml

from sslortho.config import PretrainConfig, check_same_run, parse_config
from sslortho.data import load_split
from sslortho.experiments.grid_file import read_experiment
from sslortho.models import read_weights

ROOT = Path(__file__).parent.parent
SOURCES = [*ROOT.glob("sslortho/**/*.py"), *ROOT.glob("scripts/**/*.py"), ROOT / "hubconf.py"]

FORBIDDEN = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "yaml.load", "yaml.unsafe_load",
    "yaml.full_load", "eval", "exec", "os.system", "os.popen", "tempfile.mktemp", "marshal.loads",
    "joblib.load", "dill.load", "torch.hub.load",
}  # fmt: skip


def dotted(node):
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else (
        node.id if isinstance(node, ast.Name) else "?"
    )  # fmt: skip


def is_true(node):
    return isinstance(node, ast.Constant) and node.value is True


def safe_loaders(tree):
    """Classes of a module that are yaml.SafeLoader with a little more."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return {c.name for c in classes if [dotted(base) for base in c.bases] == ["yaml.SafeLoader"]}


def find_dangers(source):
    """Calls that run, or may run, what a file says: (line, name)."""
    found, tree = [], ast.parse(source)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name, given = dotted(node.func), {word.arg: word.value for word in node.keywords}
        if (
            name == "yaml.load"
            and len(node.args) == 2
            and dotted(node.args[1]) in safe_loaders(tree)
        ):
            continue
        dangerous = (
            name in FORBIDDEN
            or (name == "torch.load" and not is_true(given.get("weights_only")))
            or (name == "np.load" and is_true(given.get("allow_pickle")))
            or is_true(given.get("shell"))
        )
        if dangerous:
            found.append((node.lineno, name))
    return found


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)", "torch.load(path, weights_only=False)", "torch.load(path, **options)",
        "pickle.loads(content)", "yaml.load(text, Loader=yaml.Loader)", "eval(text)",
        "np.load(path, allow_pickle=True)", "subprocess.run(command, shell=True)",
    ],
)  # fmt: skip
def test_dangers_are_found(line):
    assert len(find_dangers(f"def read():\n    return {line}\n")) == 1


def test_there_are_none_in_the_package():
    assert len(SOURCES) > 150
    dangers = {str(path.relative_to(ROOT)): find_dangers(path.read_text()) for path in SOURCES}
    assert {path: found for path, found in dangers.items() if found} == {}


class Attack:
    def __init__(self, sign):
        self.sign = sign

    def __reduce__(self):
        return Path.touch, (self.sign,)


def test_the_attack_works_where_pickles_are_loaded(tmp_path):
    pickle.loads(pickle.dumps(Attack(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("beside", [{}, {"model": {"weight": torch.ones(3, 3)}}])
@pytest.mark.parametrize("zipped", [True, False])
def test_weights_with_code_in_them_do_not_run_it(tmp_path, beside, zipped):
    path, sign = tmp_path / "weights.pt", tmp_path / "ran"
    torch.save({**beside, "x": Attack(sign)}, path, _use_new_zipfile_serialization=zipped)
    with contextlib.suppress(ValueError):  # or it makes do with the tensors beside it
        read_weights(path)
    assert not sign.exists()


def attack_in_yaml(sign):
    return f"!!python/object/apply:os.mkdir [{sign}]\n"


def test_that_attack_works_where_yaml_is_loaded_without_care(tmp_path):
    yaml.load(attack_in_yaml(tmp_path / "ran"), Loader=yaml.UnsafeLoader)
    assert (tmp_path / "ran").exists()


def test_yaml_does_not_run(tmp_path, capsys):
    sign, path = tmp_path / "ran", tmp_path / "config.yaml"
    path.write_text(attack_in_yaml(sign))
    with pytest.raises(SystemExit) as stop:
        parse_config(PretrainConfig, ["--config", str(path)])
    assert stop.value.code == 2
    capsys.readouterr()
    (tmp_path / "summary.json").write_text("{}")
    for read in (lambda: check_same_run(PretrainConfig(), tmp_path), lambda: read_experiment(path)):
        with pytest.raises((ValueError, yaml.YAMLError)):
            read()
    assert not sign.exists()


def test_an_archive_of_cifar_is_not_unpacked_unless_its_checksum_is_right(tmp_path):
    """torchvision unpickles what is in it, so the MD5 of what it publishes comes first."""
    sign, batch = tmp_path / "ran", tmp_path / "batch"
    batch.write_bytes(pickle.dumps(Attack(sign)))
    data = tmp_path / "data"
    data.mkdir()
    archive = data / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(batch, "cifar-10-batches-py/data_batch_1")
        file.add(batch, "../escaped")
    with pytest.raises(ValueError, match="data='cifar10' is neither in"):
        load_split("cifar10", data, "train")
    assert not sign.exists()
    assert not (tmp_path / "escaped").exists()


def test_batches_of_cifar_that_were_changed_are_not_unpickled(tmp_path):
    sign, folder = tmp_path / "ran", tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]:
        (folder / name).write_bytes(pickle.dumps(Attack(sign)))
    with pytest.raises(ValueError, match="data='cifar10' is neither in"):
        load_split("cifar10", tmp_path, "train")
    assert not sign.exists()


def test_a_checkpoint_of_an_attacker_with_the_right_checksum_is_still_only_data(tmp_path):
    from sslortho.train import CheckpointFolder

    sign, path = tmp_path / "ran", tmp_path / "x.pt"
    torch.save({"format": 1, "task": Attack(sign)}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    path.rename(tmp_path / f"step-00000001-{digest}.pt")
    with (
        pytest.warns(UserWarning, match="it cannot be read"),
        pytest.raises(ValueError, match="can be used"),
    ):
        CheckpointFolder(tmp_path).load_latest()
    assert not sign.exists()
