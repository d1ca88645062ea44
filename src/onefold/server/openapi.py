"""OpenAPI 3.1 of the routes, with the JSON schemas of their very types."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.inspect import Field, Type, multi_type_info

from onefold.core.errors import Invalid
from onefold.engine.call import DEADLINE_MS_MAX
from onefold.messaging import idempotency
from onefold.server.binding import PREFIX, Bound
from onefold.server.problems import KINDS, Problem

_DESCRIPTION = (
    "Every request carries a bearer token with the right that the operation needs. Errors are RFC 9457 problem "
    "documents; compare their `code`. A POST with an Idempotency-Key is done once: the same key with the same "
    "request gets the first answer again, with another request 422. 503 may be repeated after Retry-After; after 504 "
    "ask before repeating. In a path, write a slash inside a name as %2F. Lists come in pages: pass `after` on."
)

_REQUEST_ID = {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}}


def document(routes: Sequence[Bound], *, body_bytes_max: int) -> dict[str, Any]:
    """The whole document as plain data; `body_bytes_max` is what the server reads of a body."""
    kinds = _kinds(routes)
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    paths: dict[str, dict[str, Any]] = {}
    for number, route in enumerate(routes):
        text, body, answer = schemas[1 + 3 * number : 4 + 3 * number]
        query = components[text["$ref"].rpartition("/")[2]]
        paths.setdefault(PREFIX + route.path, {})[route.verb.lower()] = _operation(
            route, query, body, answer, body_bytes_max
        )
    for route, text in zip(routes, schemas[1::3], strict=True):
        components.pop(text["$ref"].rpartition("/")[2], None)  # Parameters stand one by one.
        if not (route.has_body and route.body_type.__struct_fields__):
            components.pop(f"{route.body_type.__name__}", None)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Onefold", "version": "1", "description": _DESCRIPTION, "license": {"name": "Apache-2.0"}},
        "servers": [{"url": "."}],
        "security": [{"bearer": []}],
        "tags": [{"name": name} for name in dict.fromkeys(route.block for route in routes)],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "parameters": {
                "IdempotencyKey": {
                    "name": "Idempotency-Key", "in": "header", "required": False,
                    "description": "1 to 255 printable ASCII characters, chosen anew for each intention; in quotes "
                    "or without.",
                    "schema": msgspec.json.schema(idempotency.http.KeyField),
                },
                "Deadline": {
                    "name": "Onefold-Deadline-Ms", "in": "header", "required": False,
                    "description": "Past it the call is undone and answers 503.",
                    "schema": {"type": "integer", "minimum": 1, "maximum": DEADLINE_MS_MAX, "default": 10_000},
                },
            },
            "headers": {
                "RequestId": {
                    "description": "Stands in the server's log; what a request has in this field comes back.",
                    "required": True, "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,64}$"},
                },
                "Replayed": {
                    "description": "The answer is the one that the same key got before.",
                    "schema": {"enum": ["true"]},
                },
                "RetryAfter": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}},
            },
            "responses": {
                "Problem": {
                    "description": "; ".join(f"{status} {kind}: {title}" for kind, (status, title) in KINDS.items()),
                    "headers": {**_REQUEST_ID, "Retry-After": {"$ref": "#/components/headers/RetryAfter"}},
                    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
                },
            },
        },
    }  # fmt: skip


def check_names(routes: Sequence[Bound]) -> None:
    """Refuse two operations or two record types of one name.

    An operation is called after its function. Records of one name would be called after their modules, and
    otherwise again once one of them is gone.

    Raises:
        Invalid: naming both.
    """
    operations: dict[str, Bound] = {}
    for route in routes:
        first = operations.setdefault(route.name, route)
        if first is not route:
            raise Invalid(
                "Two routes have functions of one name.", code="operation_name", name=route.name,
                routes=[first.where, route.where],
            )  # fmt: skip
    named: dict[str, type] = {}
    for record in _records(multi_type_info(_kinds(routes))):
        other = named.setdefault(record.__name__, record)
        if other is not record:
            both = sorted(f"{kind.__module__}.{kind.__qualname__}" for kind in (record, other))
            raise Invalid("Two record types of one name are in the API.", code="record_name", records=both)


def _kinds(routes: Sequence[Bound]) -> list[Any]:
    """A problem, then of each route its parameters, its body and its answer."""
    return [Problem, *(kind for route in routes for kind in (route.text_type, route.body_type, route.returns))]


def _records(kinds: Sequence[Type]) -> dict[type, None]:
    """The record types and enumerations in them, at any depth; of a generic one the type that was filled in."""
    found: dict[type, None] = {}
    seen: set[Any] = set()
    ahead: list[Any] = list(kinds)
    while ahead:
        kind = ahead.pop()
        if isinstance(kind, tuple):
            ahead += kind
        elif isinstance(kind, (Type, Field)):
            cls = getattr(kind, "cls", None)
            if cls is not None:
                if cls in seen:
                    continue
                seen.add(cls)
                found[getattr(cls, "__origin__", cls)] = None
            ahead += (getattr(kind, name) for name in kind.__struct_fields__)
    return found


def _operation(
    route: Bound, query: dict[str, Any], body: dict[str, Any], answer: dict[str, Any], body_bytes_max: int
) -> dict[str, Any]:
    text = inspect.getdoc(route.fn) or ""
    operation: dict[str, Any] = {
        "operationId": route.name,
        "tags": [route.block],
        "summary": text.partition("\n")[0],
        "description": text,
        "x-onefold-right": route.needs,
        "parameters": [
            {
                "name": name,
                "in": "path" if name in route.by_path else "query",
                "required": name in query.get("required", ()) or name in route.by_path,
                "schema": schema,
            }
            for name, schema in query.get("properties", {}).items()
        ] + [{"$ref": "#/components/parameters/Deadline"}],
        "responses": {kind: {"$ref": "#/components/responses/Problem"} for kind in ("4XX", "5XX")},
    }  # fmt: skip
    if route.verb == "POST":
        operation["parameters"].append({"$ref": "#/components/parameters/IdempotencyKey"})
    if route.has_body and route.body_type.__struct_fields__:
        required = any(field.required for field in msgspec.structs.fields(route.body_type))
        operation["requestBody"] = {
            "description": f"At most {body_bytes_max:,} bytes.",
            "required": required, "content": {"application/json": {"schema": body}},
        }  # fmt: skip
    headers = {} if route.streams else dict(_REQUEST_ID)
    if route.verb == "POST":
        headers["Idempotent-Replayed"] = {"$ref": "#/components/headers/Replayed"}
    if route.answers_nothing:
        operation["responses"]["204"] = {"description": "Done.", "headers": headers}
    else:
        content: dict[str, Any] = {"application/json": {"schema": answer}}
        if route.streams:
            content["text/event-stream"] = {"schema": {"type": "string"}}
        operation["responses"]["200"] = {"description": "Done.", "headers": headers, "content": content}
    return operation
