"""The description of the API: OpenAPI for programs, one plain page for people."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence
from typing import Any

import msgspec

from onefold.server import openapi
from onefold.server.binding import PREFIX, Bound
from onefold.server.problems import KINDS, Headers

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b;background:#fff}
h2{margin-top:2.5rem;border-bottom:1px solid #ccc}h3{font:600 1rem ui-monospace,monospace;margin:1.5rem 0 .2rem}
code,pre{font:.9em ui-monospace,monospace}pre{white-space:pre-wrap;background:#f5f5f5;padding:.7rem;border-radius:.3rem}
table{border-collapse:collapse}td,th{text-align:left;vertical-align:top;padding:.15rem 1rem .15rem 0}
nav a{margin-right:1rem}.verb{display:inline-block;min-width:4.5rem}.right{color:#555;font-weight:400}
@media(prefers-color-scheme:dark){body{color:#eee;background:#161616}pre{background:#222}a{color:#9cf}.right{color:#aaa}}
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()


def render(name: str, routes: Sequence[Bound], *, body_bytes_max: int) -> tuple[Headers, bytes]:
    """Headers and body of "openapi.json" or "docs"."""
    document = openapi.document(routes, body_bytes_max=body_bytes_max)
    if name == "openapi.json":
        return [(b"content-type", b"application/json"), (b"x-content-type-options", b"nosniff")], msgspec.json.encode(
            document
        )
    policy = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; frame-ancestors 'none'; base-uri 'none'"
    headers = [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-security-policy", policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
    ]
    return headers, _page(document, routes).encode()


def _page(document: dict[str, Any], routes: Sequence[Bound]) -> str:
    blocks: dict[str, list[Bound]] = {}
    for route in routes:
        blocks.setdefault(route.block, []).append(route)
    links = "".join(f'<a href="#{name}">{name}</a>' for name in blocks)
    sections = "".join(
        f'<h2 id="{name}">{name}</h2>' + "".join(_operation(document, route) for route in found)
        for name, found in blocks.items()
    )
    kinds = "".join(
        f'<tr id="problem-{kind}"><td>{status}</td><td><code>{kind}</code></td><td>{html.escape(title)}</td></tr>'
        for kind, (status, title) in KINDS.items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Onefold API</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>Onefold API</h1><p>{html.escape(document['info']['description'])}</p>"
        f'<p>For programs: <a href="openapi.json">openapi.json</a> (OpenAPI 3.1).</p><nav>{links}</nav>{sections}'
        f"<h2>Problems</h2><table><tr><th>Status<th>Kind<th>Meaning</tr>{kinds}</table></body></html>"
    )


def _operation(document: dict[str, Any], route: Bound) -> str:
    operation = document["paths"][PREFIX + route.path][route.verb.lower()]
    rows = "".join(
        f"<tr><td><code>{html.escape(parameter['name'])}</code></td><td>{parameter['in']}</td>"
        f"<td>{'required' if parameter['required'] else 'optional'}</td>"
        f"<td><code>{html.escape(msgspec.json.encode(parameter['schema']).decode())}</code></td></tr>"
        for parameter in operation.get("parameters", ())
        if "name" in parameter
    )
    body = ""
    if "requestBody" in operation:
        reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        schema = document["components"]["schemas"][reference.rpartition("/")[2]]
        body = "".join(
            f"<tr><td><code>{html.escape(name)}</code></td><td>body</td>"
            f"<td>{'required' if name in schema.get('required', ()) else 'optional'}</td>"
            f"<td><code>{html.escape(msgspec.json.encode(kind).decode())}</code></td></tr>"
            for name, kind in schema.get("properties", {}).items()
        )
    table = f"<table>{rows}{body}</table>" if rows or body else ""
    return (
        f'<h3><span class="verb">{route.verb}</span> {PREFIX}{html.escape(route.path)} '
        f'<span class="right">needs {html.escape(route.needs)}</span></h3>'
        f"<pre>{html.escape(operation.get('description', ''))}</pre>{table}"
    )
