"""Whatever a client sends is answered as /openapi.json describes it, and never by 500."""

import json

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from offramp.server.app import create_app
from offramp.server.hosted import Hosts
from offramp.server.limits import Limits
from small_server import causal_host, elmer_host

pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
"""schemathesis draws with ``random`` itself."""

EXAMPLES = 15
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
"""Not that all that fits is accepted: whether an exit exists, a model must be asked."""
ANSWERED = {
    "GET /v1/models",
    "GET /v1/models/{name}",
    "POST /v1/completions",
    "POST /v1/chat/completions",
    "POST /v1/generate",
    "POST /v1/trace",
    "POST /v1/tokenize",
    "GET /healthz",
    "GET /metrics",
}


@pytest.fixture(scope="module")
def operations():
    """What the app says that it does; texts are short, so that examples are many."""
    app = create_app(Hosts([causal_host(), elmer_host()]), limits=Limits(new_tokens=4))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers={"Host": "localhost"})
    found = (each.ok() for each in schema.get_all_operations())
    return {f"{each.method.upper()} {each.path}": each for each in found}


def test_all_that_is_answered_is_described(operations):
    assert set(operations) == ANSWERED


@pytest.mark.parametrize("kind", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("name", sorted(each for each in ANSWERED if each.startswith("POST")))
def test_every_answer_is_as_it_is_described(operations, name, kind):
    @given(case=operations[name].as_strategy(generation_mode=kind))
    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), derandomize=True)
    def check(case):
        answer = case.call(headers={"Host": "localhost"})
        assert answer.status_code < 500, answer.text
        case.validate_response(answer, checks=CHECKS)
        if answer.status_code >= 400:
            assert set(json.loads(answer.content)["error"]) == {"message", "type", "param", "code"}

    check()


@pytest.mark.parametrize("name", sorted(each for each in ANSWERED if each.startswith("GET")))
def test_every_question_is_answered_as_it_is_described(operations, name):
    @given(case=operations[name].as_strategy())
    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), derandomize=True)
    def check(case):
        answer = case.call(headers={"Host": "localhost"})
        assert answer.status_code < 500, answer.text
        case.validate_response(answer, checks=CHECKS)

    check()
