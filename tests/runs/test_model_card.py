"""Model cards say what the summary says, and nothing where it says nothing."""

import pytest
import yaml

from sslortho.runs.model_card import write_card


@pytest.mark.parametrize(
    "summary", [None, {}, {"config": None, "verdict": None, "plan": None, "versions": None}]
)
def test_a_card_without_facts_is_a_card(summary):
    text = write_card("resnet18", 32, "values from 0 to 1", summary)
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "timm"
    assert "# resnet18" in body
    assert "How good it is" not in body


def test_a_classifiers_accuracy_is_shown_and_its_rate_has_no_unit():
    text = write_card("resnet18", 32, "", {"top1": 93.21, "config": {"data": "cifar10", "lr": 0.1}})
    assert "93.21" in text
    assert "cifar10" in text
    assert "per 256" not in text


def tags(text):
    return yaml.safe_load(text.split("---\n", 2)[1])["tags"]


@pytest.mark.parametrize(
    ("config", "learned"),
    [
        ({"method": "simclr"}, True),
        ({"lr": 0.1}, False),  # supervised
        ({"protocol": "sgd", "weights": "finetune"}, False),
        (None, False),  # nobody knows
    ],
)
def test_only_what_learned_without_labels_is_tagged_so(config, learned):
    text = write_card("resnet18", 32, "", None if config is None else {"config": config})
    assert ("self-supervised-learning" in tags(text)) == learned
    assert {"image-feature-extraction", "sslortho"} <= set(tags(text))


def test_the_card_of_a_fine_tuned_backbone_says_both_rates_and_its_origin():
    config = {
        "protocol": "sgd", "weights": "finetune", "lr": 0.3, "lr_backbone": 0.005,
        "backbone_from": "/home/me/secret/runs/photos/backbone.safetensors",
    }  # fmt: skip
    text = write_card("resnet18", 32, "", {"config": config})
    rows = dict(line.split("|")[1:3] for line in text.splitlines() if line.count("|") == 3)
    facts = {name.strip(): value.strip() for name, value in rows.items()}
    assert facts["lr, per 256 images"] == "0.3"
    assert facts["lr_backbone, per 256 images"] == "0.005"
    assert facts["weights"] == "finetune"
    assert "photos/backbone.safetensors" in facts["backbone_from"].replace("\\", "")
    assert "secret" not in text
