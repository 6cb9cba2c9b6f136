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
