from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.models.endpoints import Endpoint, EndpointError, ModelUnavailable, check, endpoint_for, environment
from schemas.config import Role
from tests.support.openai_server import OpenAIServer

URL = "http://models.example:8000/v1"


def test_no_url_no_endpoint():
    assert endpoint_for(Role.JUDGE, {"LVR_JUDGE_MODEL": "m", "LVR_TARGET_URL": URL}) is None


def test_a_roles_own_variables():
    environ = {"LVR_JUDGE_URL": URL + "/", "LVR_JUDGE_MODEL": "m", "LVR_JUDGE_API_KEY": "k", "LVR_JUDGE_VISION": "1"}
    assert endpoint_for(Role.JUDGE, environ) == Endpoint(URL, "m", "k", True)


def test_one_server_for_all_roles_with_another_model_for_one():
    environ = {"LVR_MODEL_URL": URL, "LVR_MODEL_NAME": "m", "LVR_MODEL_API_KEY": "k", "LVR_TARGET_MODEL": "t"}
    assert endpoint_for(Role.JUDGE, environ) == Endpoint(URL, "m", "k", False)
    assert endpoint_for(Role.TARGET, environ) == Endpoint(URL, "t", "k", True)


def test_a_key_is_not_sent_to_another_server_than_its_own():
    environ = {"LVR_MODEL_URL": URL, "LVR_MODEL_API_KEY": "k", "LVR_JUDGE_URL": "http://other/v1"}
    assert endpoint_for(Role.JUDGE, environ).api_key == ""


def test_captioner_target_and_viewer_see_by_default():
    own = {f"LVR_{role.name}_URL": URL for role in Role}
    assert {role for role in Role if endpoint_for(role, own).vision} == {Role.CAPTIONER, Role.TARGET, Role.VIEWER}
    assert not endpoint_for(Role.TARGET, {"LVR_MODEL_URL": URL, "LVR_MODEL_VISION": "0"}).vision


@pytest.mark.parametrize(
    ("environ", "model"),
    [
        ({}, None),
        ({"LVR_MODEL_VISION": "0"}, None),
        ({"LVR_VIEWER_VISION": "0", "LVR_MODEL_VISION": "1"}, None),
        ({"LVR_MODEL_VISION": "1"}, "general"),
        ({"LVR_VIEWER_VISION": "1", "LVR_VIEWER_MODEL": "vlm"}, "vlm"),
        ({"LVR_VIEWER_URL": URL, "LVR_VIEWER_MODEL": "vlm"}, "vlm"),
    ],
)
def test_a_viewer_uses_the_general_server_only_if_that_is_known_to_see(environ, model):
    found = endpoint_for(Role.VIEWER, {"LVR_MODEL_URL": URL, "LVR_MODEL_NAME": "general", **environ})
    assert found == (model and Endpoint(URL, model, vision=True))


@pytest.mark.parametrize(
    ("environ", "complaint"),
    [
        ({"LVR_JUDGE_URL": URL, "LVR_JUDGE_VISION": "yes"}, "LVR_JUDGE_VISION is 'yes'; it must be 0 or 1"),
        ({"LVR_JUDGE_URL": "models.example:8000/v1"}, "an address such as"),
    ],
)
def test_variables_that_make_no_sense(environ, complaint):
    with pytest.raises(EndpointError, match=complaint):
        endpoint_for(Role.JUDGE, environ)


@given(
    role=st.sampled_from(Role),
    model=st.text(min_size=1),
    key=st.text(alphabet=st.characters(codec="ascii")),
    vision=st.booleans(),
)
def test_environment_is_the_inverse(role, model, key, vision):
    endpoint = Endpoint(URL, model, key, vision)
    assert endpoint_for(role, environment(role, endpoint)) == endpoint


def test_secrets_stay_out_of_sight():
    endpoint = Endpoint("http://user:hidden@host:1/v1?key=hidden", "m", "hidden")
    assert "hidden" not in repr(endpoint) + str(endpoint) + endpoint.shown_url
    with pytest.raises(ModelUnavailable) as raised:
        check(Endpoint("http://user:hidden@127.0.0.1:9/v1", "m", "hidden"))
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["http://user:PASS/WORD@host/v1", "http://user:PASSWORD@[::1/v1", "ftp://u:PASSWORD@h/v1"]
)
def test_an_invalid_address_is_reported_without_its_password(url):
    with pytest.raises(EndpointError, match="an address such as") as refused:
        endpoint_for(Role.JUDGE, {"LVR_MODEL_URL": url})
    assert not any(word in str(refused.value) for word in ("PASS", "WORD"))


def test_an_answer_loses_the_key_and_the_password_and_nothing_else():
    endpoint = Endpoint("http://user:p%40ssword1@host/v1?tenant=blue-whale", "m", 'KEY-"12345')
    answer = 'a basic idea, see https://host/watch?v=1, the blue-whale; "none"'
    assert endpoint.mask_secrets(answer) == answer
    text = 'KEY-"12345 KEY-\\"12345 KEY-&quot;12345 KEY-%2212345 p@ssword1 p%40ssword1 dXNlcjpwQHNzd29yZDE='
    assert endpoint.mask_secrets(text) == " ".join(["***"] * 7)
    text = "headers {'Authorization': 'Bearer k1'} of http://user:p%40ssword1@host/v1?tenant=blue-whale"
    assert endpoint.mask_message(text) == "headers {'Authorization': 'Bearer ***'} of http://host/v1"


def test_check_passes_for_a_listed_model(server):
    check(Endpoint(server.url, "fake-model"))
    check(Endpoint(server.url, ""), "fake-model")


def test_check_names_the_models_that_there_are():
    with (
        OpenAIServer(models=("b", "a")) as server,
        pytest.raises(ModelUnavailable, match="no model 'c'; it lists a, b"),
    ):
        check(Endpoint(server.url, "c"))


def test_check_names_the_wrong_key():
    with OpenAIServer(api_key="right") as server:
        check(Endpoint(server.url, "fake-model", "right"))
        with pytest.raises(ModelUnavailable, match=r"judge .*refused the key \(HTTP 401\); set LVR_JUDGE_API_KEY"):
            check(Endpoint(server.url, "fake-model", "wrong"), role=Role.JUDGE)


def test_check_reports_a_server_that_cannot_be_reached():
    with pytest.raises(ModelUnavailable, match=r"127\.0\.0\.1:9/v1.*cannot be reached.*check that the server"):
        check(Endpoint("http://127.0.0.1:9/v1", "m"))


def test_check_reports_a_wrong_address(server):
    with pytest.raises(ModelUnavailable, match=r"HTTP 404.*must end in /v1"):
        check(Endpoint(server.url.removesuffix("/v1"), "fake-model"))
