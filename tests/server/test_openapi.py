"""The description of the API is valid, complete, and says what the code says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from typing import Any

import msgspec
import pytest
from http_calls import Direct
from openapi_spec_validator import OpenAPIV31SpecValidator

from onefold import Database, Invalid, Tx
from onefold.core.page import Page
from onefold.core.route import Route
from onefold.server import asgi
from onefold.server.routes import all_routes


def test_the_document_is_valid_openapi_3_1(direct: Direct) -> None:
    document = direct("GET", "/openapi.json").json
    assert document["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(document).validate()


def test_every_route_stands_in_it_with_its_right(direct: Direct) -> None:
    document = direct("GET", "/openapi.json").json
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations) == len(all_routes())
    for route in all_routes():
        operation = document["paths"]["/v1" + route.path][route.verb.lower()]
        assert operation["x-onefold-right"] == route.needs
        assert operation["summary"]
        in_path = {parameter["name"] for parameter in operation["parameters"] if parameter.get("in") == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", route.path))
        assert ("requestBody" in operation) <= (route.verb in {"POST", "PUT"})
        assert {"200", "204"} & set(operation["responses"])


def test_one_operation_as_an_example(direct: Direct) -> None:
    document = direct("GET", "/openapi.json").json
    create = document["paths"]["/v1/tokens"]["post"]
    body = document["components"]["schemas"][create["requestBody"]["content"]["application/json"]["schema"]["$ref"].split("/")[-1]]
    assert body["required"] == ["name", "digest", "rights"]
    assert body["additionalProperties"] is False
    assert body["properties"]["ttl_ms"]["default"] is None
    listing = document["paths"]["/v1/tokens"]["get"]
    limit = next(parameter for parameter in listing["parameters"] if parameter.get("name") == "limit")
    assert limit == {
        "name": "limit", "in": "query", "required": False, "schema": {"minimum": 1, "maximum": 1000, "type": "integer", "default": 100},
    }  # fmt: skip


#: Any JSON object: what stands in it is the caller's, up to 64 KiB.
ANY_JSON = {"events.append_json: events[].data", "webhooks.send_message: payload"}
_CLASS = re.compile(r"\[(?:[^\]\\]|\\.)*\]")


def unlimited(schema: dict[str, Any], where: str, components: dict[str, Any]) -> Iterator[str]:
    """The places in a schema that allow what no server could take: numbers, texts and lists without an end."""
    if "$ref" in schema:
        yield from unlimited(components[schema["$ref"].rpartition("/")[2]], where, components)
    for option in schema.get("anyOf", ()):
        yield from unlimited(option, where, components)
    kind = schema.get("type")
    if kind == "integer" and not {"minimum", "maximum"} <= set(schema):
        yield where
    elif kind == "string":
        endless = re.search(r"[*+]|,\}", _CLASS.sub("c", schema.get("pattern", "*")).replace("\\*", "s"))
        if "pattern" not in schema or ("maxLength" not in schema and endless):
            yield where
    elif kind == "array":
        items = schema.get("prefixItems") or [schema["items"]]
        if "maxItems" not in schema:
            yield where
        for item in items:
            yield from unlimited(item, f"{where}[]", components)
    elif kind == "object" and "properties" in schema:
        for name, inner in schema["properties"].items():
            yield from unlimited(inner, f"{where}.{name}" if where[-1] != " " else f"{where}{name}", components)
    elif kind == "object":
        if not {"maxProperties", "propertyNames", "additionalProperties"} <= set(schema):
            yield where
        else:
            for inner in (schema["additionalProperties"], {"type": "string", **schema["propertyNames"]}):
                yield from unlimited(inner, f"{where}{{}}", components)
    else:
        assert kind in {"boolean", "null", "integer"} or {"enum", "anyOf", "$ref"} & set(schema), (where, schema)


def test_every_request_is_described_with_its_limits(direct: Direct) -> None:
    document = direct("GET", "/openapi.json").json
    components, shared = document["components"]["schemas"], document["components"]["parameters"]
    found: set[str] = set()
    for operation in (operation for path in document["paths"].values() for operation in path.values()):
        name = operation["operationId"]
        for given in operation["parameters"]:
            parameter = shared[given["$ref"].rpartition("/")[2]] if "$ref" in given else given
            found |= set(unlimited(parameter["schema"], f"{name}: {parameter['name']}", components))
        if "requestBody" in operation:
            assert operation["requestBody"]["description"] == "At most 1,048,576 bytes."
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            found |= set(unlimited(schema, f"{name}: ", components))
    assert found == ANY_JSON


@pytest.mark.parametrize("schema", [
    {"type": "integer"}, {"type": "integer", "minimum": 0}, {"type": "string"}, {"type": "string", "maxLength": 9},
    {"type": "string", "pattern": "^[a*]+$"}, {"type": "string", "pattern": "^(?:a{2,})$"}, {"type": "object"},
    {"type": "array", "items": {"type": "boolean"}}, {"type": "array", "maxItems": 2, "items": {"type": "integer"}},
    {"anyOf": [{"type": "null"}, {"type": "integer"}]}, {"$ref": "#/A"},
    {"type": "object", "maxProperties": 1, "propertyNames": {"pattern": "^a$"}, "additionalProperties": {"type": "string"}},
], ids=str)  # fmt: skip
def test_a_schema_without_an_end_is_found(schema: dict[str, Any]) -> None:
    assert list(unlimited(schema, "x: ", {"A": {"type": "object", "properties": {"y": {"type": "string"}}}}))


def test_the_page_for_people_is_self_contained_and_complete(direct: Direct) -> None:
    reply = direct("GET", "/docs")
    text = reply.body.decode()
    assert reply.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert not re.search(r"(src|href)=\"(https?:)?//", text), "an outside asset"
    assert "<script" not in text
    for route in all_routes():
        assert f"/v1{route.path}" in text
    for kind in ("invalid", "conflict", "unknown"):
        assert f'id="problem-{kind}"' in text


def record(name: str, **fields: Any) -> Any:
    return msgspec.defstruct(name, list(fields.items()), frozen=True)


def answering(kind: Any, path: str) -> Route:
    def fn(tx: Tx) -> None:
        """Answer one."""

    fn.__name__ = path.strip("/")
    fn.__annotations__["return"] = kind
    return Route("GET", path, fn, "test:read")


ITEM, OTHER = record("Item", x=int), record("Item", y=str)


@pytest.mark.parametrize(
    "other",
    [
        OTHER, Page[OTHER], list[OTHER] | None, dict[str, tuple[OTHER, ...]], record("Deep", inner=record("Within", item=OTHER)),
        Enum("Item", ["a"]), record("Problem"), record("Page"),
    ],
    ids=["record", "page", "list", "map", "deep", "enumeration", "problem", "generic"],
)  # fmt: skip
def test_two_records_of_one_name_are_refused_at_the_start(db: Database, other: Any) -> None:
    first = answering(Page[ITEM], "/a")
    asgi(db, routes=[first, answering(ITEM, "/b")])
    with pytest.raises(Invalid) as refused:
        asgi(db, routes=[first, answering(other, "/b")])
    assert refused.value.code == "record_name"
    assert len(refused.value.facts["records"]) == 2


def test_two_functions_of_one_name_are_refused_at_the_start(db: Database) -> None:
    """Their operations would have one id, and their bodies one name."""
    same = [answering(int, "/a"), answering(int, "/b")]
    same[1].fn.__name__ = same[0].fn.__name__
    with pytest.raises(Invalid) as refused:
        asgi(db, routes=same)
    assert refused.value.code == "operation_name"
    assert refused.value.facts["routes"] == ["GET /v1/a", "GET /v1/b"]
