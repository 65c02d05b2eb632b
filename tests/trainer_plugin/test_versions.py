import pytest

from trainer_plugin.versions import check


@pytest.mark.parametrize("torch", ["2.11.0", "2.13.0+cpu", "2.14.1", "2.14.0a0+git123"])
@pytest.mark.parametrize("transformers", ["5.17.0", "5.20.2"])
def test_supported_versions_are_accepted(torch, transformers):
    check({"torch": torch, "transformers": transformers})


def test_the_installed_versions_are_accepted():
    check()


@pytest.mark.parametrize(
    ("torch", "transformers", "message"),
    [
        ("2.10.1", "5.20.2", r"torch 2.10.1 is not supported: 2.11 or newer is needed, and before 2.15"),
        ("2.15.0.dev1", "5.20.2", r"torch 2.15.0.dev1 is not supported"),
        ("2.13.0", "5.16.4", r"transformers 5.16.4 is not supported: 5.17 or newer"),
        ("2.13.0", "5.21.0", r"transformers 5.21.0 is not supported.*test_parity.py.*SUPPORTED"),
    ],
)
def test_other_versions_are_refused_with_the_supported_ones(torch, transformers, message):
    with pytest.raises(RuntimeError, match=message):
        check({"torch": torch, "transformers": transformers})
