import pytest
from helpers.methods import create

from sslortho.methods.options import METHOD_OPTIONS, options_of_method


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
