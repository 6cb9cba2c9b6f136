"""Nothing in a file of somebody else's runs. What each reader does with attacks is in its own tests."""

import ast
import contextlib
import hashlib
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image

from sslortho.data import ImageArray, load_split, named_subset
from sslortho.data.beton import manifest_path, write_beton
from sslortho.data.beton.file_format import read_beton, record_type
from sslortho.data.image_folder import scan_folder
from sslortho.models import read_weights, restore_backbone
from sslortho.paper.grid_file import read_experiment
from sslortho.recipes.command_line import parse_options
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.runs.config_file import check_same_run

ROOT = Path(__file__).parent.parent
SOURCES = [*ROOT.glob("sslortho/**/*.py"), *ROOT.glob("scripts/**/*.py"), ROOT / "hubconf.py"]

FORBIDDEN = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open",
    "dill.load", "dill.loads", "cloudpickle.load", "cloudpickle.loads", "joblib.load",
    "pandas.read_pickle", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter",
    "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all",
    "yaml.load_all", "eval", "exec", "__import__", "os.system", "os.popen", "subprocess.getoutput",
    "subprocess.getstatusoutput", "tempfile.mktemp", "tarfile.open", "shutil.unpack_archive",
}  # fmt: skip
"""Functions that may run code from a file, or write files where it says; never mentioned here."""

SAFE_LOADERS = {"yaml.SafeLoader", "yaml.CSafeLoader"}
SAFE_PER_CALL = {"torch.load", "torch.serialization.load", "yaml.load", "numpy.load"}
"""To be called with the right arguments, and not to be handed about."""


def imported_names(tree):
    """Map each name that a module imports to its full name: `np` to numpy."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {word.asname: word.name for word in node.names if word.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {w.asname or w.name: f"{node.module}.{w.name}" for w in node.names}
    return names


def full_name(node, names):
    if isinstance(node, ast.Attribute):
        return f"{full_name(node.value, names)}.{node.attr}"
    return names.get(node.id, node.id) if isinstance(node, ast.Name) else "?"


def is_constant(node, value):
    return isinstance(node, ast.Constant) and node.value is value


def is_safe_call(call, name, names, loaders):
    given = {word.arg: word.value for word in call.keywords}
    if name in ("torch.load", "torch.serialization.load"):
        return is_constant(given.get("weights_only"), True)
    if name == "yaml.load":
        loader = given.get("Loader", call.args[1] if len(call.args) > 1 else None)
        return full_name(loader, names) in loaders
    if name == "numpy.load":
        return len(call.args) < 3 and None not in given and (
            "allow_pickle" not in given or is_constant(given["allow_pickle"], False)
        )  # fmt: skip
    return "shell" not in given or is_constant(given["shell"], False)


def find_dangers(source):
    """(line, name) of what runs, or may run, what a file says."""
    tree = ast.parse(source)
    names = imported_names(tree)
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    loaders = SAFE_LOADERS | {
        c.name for c in classes if {full_name(base, names) for base in c.bases} <= SAFE_LOADERS
    }
    found, safe = [], set()
    for node in ast.walk(tree):  # a call comes before its parts
        if isinstance(node, ast.Call):
            name = full_name(node.func, names)
            if is_safe_call(node, name, names, loaders):
                safe.add(node.func)
            elif name not in SAFE_PER_CALL:
                found.append((node.lineno, name))
        elif isinstance(node, ast.Name | ast.Attribute):
            name = full_name(node, names)
            if name in FORBIDDEN or (name in SAFE_PER_CALL and node not in safe):
                found.append((node.lineno, name))
    return found


@pytest.mark.parametrize("name", sorted(FORBIDDEN))
def test_each_danger_is_found_under_any_name(name):
    module, _, function = name.rpartition(".")
    sources = [f"x = {name}(y)", f"x = map({name}, y)"]
    if module:
        sources = [f"import {module.split('.')[0]}\n{source}" for source in sources]
        sources += [f"from {module} import {function}\nx = {function}(y)"]
        sources += [f"import {module} as m\nx = m.{function}(y)"]
        sources += [f"from {module} import {function} as f\nclass A(f): pass"]
    for source in sources:
        assert [found for _, found in find_dangers(source)] == [name], source


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)", "torch.load(path, weights_only=False)", "torch.load(path, **options)",
        "torch.load(path, weights_only=flag)", "load = torch.load", "l(path)",
        "yaml.load(text)", "yaml.load(text, Loader=yaml.Loader)", "yaml.load(text, yaml.FullLoader)",
        "yaml.load(text, Loader)", "np.load(path, allow_pickle=True)", "np.load(path, None, True)",
        "np.load(path, allow_pickle=flag)", "np.load(path, **options)",
        "subprocess.run(command, shell=True)", "subprocess.Popen(command, shell=flag)",
    ],
)  # fmt: skip
def test_dangerous_arguments_are_found(line):
    assert len(find_dangers(f"import numpy as np\nfrom torch import load as l\n{line}")) == 1


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path, weights_only=True, **options)", "model.eval()", "re.compile(text)",
        "yaml.safe_load(text)", "yaml.load(text, Loader=yaml.CSafeLoader)", "yaml.load(text, Mine)",
        "np.load(path)", "np.load(path, allow_pickle=False)", "subprocess.run(command, shell=False)",
        "json.load(file)", "pickle.UnpicklingError", "pickle.dumps(x)",
    ],
)  # fmt: skip
def test_harmless_lines_are_not(line):
    mine = "class Mine(yaml.SafeLoader): pass"
    assert find_dangers(f"import yaml\nimport numpy as np\n{mine}\n{line}") == []


@pytest.mark.slow
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
        parse_options(PretrainOptions, ["--config", str(path)])
    assert stop.value.code == 2
    capsys.readouterr()
    (tmp_path / "summary.json").write_text("{}")
    for read in (
        lambda: check_same_run(PretrainOptions.of(), tmp_path),
        lambda: read_experiment(path),
    ):
        with pytest.raises((ValueError, yaml.YAMLError)):
            read()
    assert not sign.exists()


@pytest.fixture
def evil_archive(tmp_path, monkeypatch):
    """An archive in place of torchvision's download, with a pickle that runs code and a path outside."""
    sign, batch = tmp_path / "ran", tmp_path / "batch"
    batch.write_bytes(pickle.dumps(Attack(sign)))
    archive = tmp_path / "evil.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(batch, "cifar-10-batches-py/data_batch_1")
        file.add(batch, "../escaped")
    downloads = []

    def download(url, path, *args):
        downloads.append(url)
        shutil.copy(archive, path)

    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", lambda url, max_hops: url)
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", download)
    return archive, downloads


@pytest.mark.parametrize("there_already", [True, False])
def test_an_archive_of_cifar_is_not_unpacked_unless_its_checksum_is_right(
    tmp_path, evil_archive, there_already
):
    """torchvision unpickles what is in it, so the MD5 of what it publishes comes first."""
    archive, downloads = evil_archive
    data = tmp_path / "data"
    data.mkdir()
    if there_already:
        shutil.copy(archive, data / "cifar-10-python.tar.gz")
    with pytest.raises(ValueError, match=r"data='cifar10' is neither in .*corrupted"):
        load_split("cifar10", data, "train")
    assert len(downloads) == 1
    assert [path.name for path in data.iterdir()] == ["cifar-10-python.tar.gz"]
    assert not (tmp_path / "escaped").exists()
    assert not (tmp_path / "ran").exists()


def test_batches_of_cifar_that_were_changed_are_not_unpickled(tmp_path, evil_archive):
    sign, folder = tmp_path / "ran", tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]:
        (folder / name).write_bytes(pickle.dumps(Attack(sign)))
    with pytest.raises(ValueError, match="data='cifar10' is neither in"):
        load_split("cifar10", tmp_path, "train")
    assert not sign.exists()


def test_a_checkpoint_of_an_attacker_with_the_right_checksum_is_still_only_data(tmp_path):
    from sslortho.train.checkpoint import CheckpointFolder

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


METADATA = {
    "backbone": "resnet18",
    "stem": "small",
    "crop_size": "32",
    "mean": "[0, 0, 0]",
    "std": "[1, 1, 1]",
}


@pytest.mark.parametrize(
    "attack",
    [
        {"crop_size": "1000000000"}, {"crop_size": "0"}, {"crop_size": "1e999"},
        {"crop_size": "__import__('os').mkdir('ran')"}, {"mean": "[" * 100_000},
        {"std": "!!python/object/apply:os.mkdir [ran]"}, {"crop_size": "9" * 10_000},
    ],
    ids=lambda attack: next(iter(attack.values()))[:12],
)  # fmt: skip
def test_metadata_of_weights_are_only_numbers_in_range(tmp_path, monkeypatch, attack):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors.torch.save({"a": torch.zeros(2, 2)}, METADATA | attack))
    with pytest.raises(ValueError, match=r"x\.safetensors' cannot be read as weights"):
        read_weights(path)
    assert [each.name for each in tmp_path.iterdir()] == ["x.safetensors"]


def test_weights_name_no_network_to_be_fetched(tmp_path):
    """timm would download "hf-hub:..." from whom the file says."""
    path = tmp_path / "x.safetensors"
    content = {"a": torch.zeros(2, 2)}
    path.write_bytes(
        safetensors.torch.save(content, METADATA | {"backbone": "timm:hf-hub:evil/model"})
    )
    with pytest.raises(ValueError, match="is not a timm model"):
        restore_backbone(read_weights(path), stem="stock")


def test_compressed_checkpoints_are_not_inflated(tmp_path):
    torch.save({"w": torch.ones(3, 3)}, tmp_path / "plain.pt")
    path = tmp_path / "x.pt"
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in plain.namelist():
            small.writestr(name, plain.read(name))
    assert read_weights(tmp_path / "plain.pt").state["w"].shape == (3, 3)
    with pytest.raises(ValueError, match=r"x\.pt' cannot be read .*data\.pkl in it is compressed"):
        read_weights(path)


@pytest.mark.slow
def test_dictionaries_within_each_other_without_end(tmp_path):
    content = {"w": torch.ones(3, 3)}
    for _ in range(7):
        content = {str(i): content for i in range(50)}  # 50 ** 7 ways down
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="more than 100000 dictionaries"):
        read_weights(tmp_path / "x.pt")


def write_small_beton(folder, **numbers):
    """Two JPEGs of 8 x 8; then numbers of the first one's record are changed by hand."""
    path = folder / "train.beton"
    pixels = torch.arange(2 * 3 * 8 * 8, dtype=torch.uint8).reshape(2, 3, 8, 8)
    write_beton(ImageArray(pixels, torch.tensor([0, 1]), ("a", "b")), path)
    record = np.memmap(path, record_type([2, 1]), "r+", 24 + 2 * 1041, (2,))[:1]
    assert record["f0"]["width"] == record["f0"]["height"] == 8
    for name, value in numbers.items():
        (record["f1"] if name == "label" else record["f0"][name])[:] = value
    return path


def test_a_beton_cannot_ask_for_more_pixels_than_pil_allows(tmp_path):
    path = write_small_beton(tmp_path, width=65535, height=65535)
    with pytest.raises(
        ValueError, match=rf"{path} .*image 0 .* 4294836225 pixels, more than 8947848"
    ):
        read_beton(path)


def test_a_beton_of_large_images_is_warned_of(tmp_path):
    with pytest.warns(Image.DecompressionBombWarning, match="image 0 is said to have 100000000"):
        assert len(read_beton(write_small_beton(tmp_path, width=10_000, height=10_000))) == 2


def test_a_beton_just_within_the_limit_is_read(tmp_path):
    assert 9459**2 <= Image.MAX_IMAGE_PIXELS < 9460**2
    assert len(read_beton(write_small_beton(tmp_path, width=9459, height=9459))) == 2


@pytest.mark.parametrize("manifest", [True, False])
def test_a_label_of_a_beton_cannot_ask_for_any_number_of_classes(tmp_path, manifest):
    path = write_small_beton(tmp_path, label=2 if manifest else 1 << 40)
    if not manifest:
        manifest_path(path).unlink()
    with pytest.raises(
        ValueError, match=rf"{path}: image 0 has the label \d+, and there are at most"
    ):
        load_split("beton", tmp_path, "train")


@pytest.mark.parametrize("classes", ["[" * 100_000, "[1, 2]", '"ab"', '{"a": 1}'])
def test_a_manifest_is_only_names(tmp_path, classes):
    manifest_path(write_small_beton(tmp_path)).write_text(f'{{"count": 2, "classes": {classes}}}')
    with pytest.raises(ValueError, match=r"train\.beton\.json is not the manifest"):
        load_split("beton", tmp_path, "train")


def test_names_in_a_list_lead_nowhere(tmp_path):
    train = tmp_path / "data" / "train"
    train.mkdir(parents=True)
    for path in (train / "0.png", train / "1.png", tmp_path / "secret.png"):
        Image.new("RGB", (8, 8)).save(path)
    files, names = scan_folder(tmp_path / "data", "train"), tmp_path / "names.txt"
    names.write_text(f"../../1.png\n{tmp_path}/0.png\n")
    assert named_subset(files, names).paths == files.paths
    for name in (
        "../../secret.png",
        str(tmp_path / "secret.png"),
        "..",
        "train/../../../secret.png",
    ):
        names.write_text(f"0.png\n{name}\n")
        with pytest.raises(ValueError, match="names 1 files that the training images do not have"):
            named_subset(files, names)
