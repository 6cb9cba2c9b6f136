import pytest
from helpers.methods import create

from sslortho.methods.options import METHOD_OPTIONS, options_of_method

PUBLISHED = {
    "barlow_twins": {"lambda_param": 0.0051},  # arXiv 2103.03230, appendix A
    "simclr": {"temperature": 0.5},  # arXiv 2002.05709, appendix B.9, for CIFAR-10
    "vicreg": {"invariance": 25, "variance": 25, "covariance": 1},  # arXiv 2105.04906, section 4.2
    "byol": {"teacher_momentum": 0.996, "weight_decay": 1.5e-6},  # arXiv 2006.07733, section 3.3
    "moco_v2": {"temperature": 0.2},  # arXiv 2003.04297, section 3
    "dino": {"teacher_temperature": 0.04},  # arXiv 2104.14294, section 3.1
    "lejepa": {"lambda_param": 0.05},  # arXiv 2511.08544, section 6
    "emp_ssl": {"similarity": 200, "coding_rate": 1, "eps": 0.2},  # tsb0601/EMP-SSL, main.py
}
"""Values that a method has as its paper or its authors' code."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_defaults_that_are_published(name):
    options = METHOD_OPTIONS[name]()
    assert {field: getattr(options, field) for field in PUBLISHED[name]} == PUBLISHED[name]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("barlow_twins", {"projector": "8-x"}, "projector='8-x' must be widths joined by dashes"),
        ("simclr", {"projector": "8"}, "projector='8' must be 2 widths"),
        ("simclr", {"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ("moco_v2", {"temperature": -1.0}, "temperature=-1.0 must be above 0"),
        ("vicreg", {"projector": "8"}, "one or more hidden layers of one width"),
        ("vicreg", {"projector": "8-9-8"}, "one or more hidden layers of one width"),
        ("vicreg", {"covariance": -1.0}, "covariance=-1.0 must be 0 or more"),
        ("byol", {"teacher_momentum": 1.5}, "teacher_momentum=1.5 must be from 0 to 1"),
        ("simsiam", {"projector": "8-8-9"}, "three widths that are equal"),
        ("moco_v2", {"queue": 0}, "queue=0 must be 1 key or more"),
        ("lejepa", {"lambda_param": 1.5}, "lambda_param=1.5 must be from 0 to 1"),
        ("lejepa", {"slices": 0}, "slices=0 must be 1 or more"),
        ("emp_ssl", {"eps": 0.0}, "eps=0.0 must be above 0"),
        ("emp_ssl", {"similarity": -1.0}, "similarity=-1.0 must be 0 or more"),
        ("dino", {"projector": "8-8"}, "projector='8-8' must be 3 widths"),
        ("dino", {"teacher_temperature": 0.0}, "teacher_temperature=0.0 must be above 0"),
    ],
)
def test_options_are_checked(name, options, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        create(name, **options)


def test_an_unknown_method_is_named_with_the_nearest():
    with pytest.raises(ValueError, match=r"method='simlcr' is not one of barlow_.*mean simclr\?"):
        options_of_method("simlcr")


def test_every_field_has_help():
    from sslortho.options import help_texts

    for name, options in METHOD_OPTIONS.items():
        assert all(help_texts(options).values()), name
