"""What is around every page: head, navigation, and the headers that keep it to itself."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

from onefold.server.dashboard.markup import Markup, join, link, tag
from onefold.server.dashboard.request import TEXT_LENGTH_MAX, Scene
from onefold.server.dashboard.views import View
from onefold.server.problems import Headers

_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)

COMMON: Headers = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
HTML: Headers = [(b"content-type", b"text/html; charset=utf-8"), *COMMON]

#: Files that every page asks for; they say nothing about the database and need no login.
ASSETS: dict[str, tuple[bytes, bytes]] = {
    name: (kind, files("onefold.server.dashboard").joinpath(name).read_bytes())
    for name, kind in (("style.css", b"text/css; charset=utf-8"), ("live.js", b"text/javascript; charset=utf-8"))
}


def page(scene: Scene, view: View, path: str, views: Mapping[str, View], main: Markup) -> bytes:
    """A whole page for somebody who is logged in."""
    navigation = [
        link(scene.at(name), one.title, aria_current=_current(view, name, one))
        for name, one in views.items()
        if one.listed and one.open_to(scene)
    ]
    leave = tag(
        "form",
        tag("input", type="hidden", name="form_token", value=scene.form_token),
        tag("button", "Log out"),
        method="post",
        action=scene.at("logout"),
    )
    space = f" in {scene.token.space_name}" if scene.token.space_name else ""
    header = tag(
        "header",
        tag(
            "div",
            tag("span", "Onefold", class_="brand"),
            tag("nav", *navigation, aria_label="Pages"),
            tag(
                "div",
                tag("span", "", class_="live", role="status"),
                tag("span", scene.token.name + space),
                leave,
                class_="who",
            ),
        ),
    )
    skip = link("#main", "Skip to the content", class_="skip")
    body = tag("body", skip, header, tag("main", main, id="main"), data_live=view.live, data_page=path)
    return _document(scene.root, scene.title or view.title, body, reload_s=10 if view.live else None)


def _current(view: View, name: str, one: View) -> str | None:
    """Of the navigation: the page itself, or the one that it belongs to."""
    return "page" if one is view else "true" if view.under == name else None


def bare(root: str, title: str, *main: object) -> bytes:
    """A page without navigation: the login, or an error."""
    return _document(root, title, tag("body", tag("main", *main, id="main")))


def login(root: str, wrong: str = "") -> bytes:
    """The form that asks for a token."""
    return bare(
        root,
        "Log in",
        tag(
            "form",
            tag("h1", "Log in to Onefold"),
            tag("p", wrong, class_="wrong", role="alert") if wrong else "",
            tag(
                "label",
                tag("span", "Token"),
                tag(
                    "input",
                    name="token",
                    type="password",
                    required=True,
                    autofocus=True,
                    autocomplete="current-password",
                    maxlength=TEXT_LENGTH_MAX,
                ),
            ),
            tag("button", "Log in"),
            tag("p", "No token yet? On the server:", class_="note"),
            tag("p", tag("code", 'onefold token create NAME --right "*"'), class_="command"),
            method="post",
            action=f"{root}/login",
            class_="login",
        ),
    )


def failure(root: str, title: str, detail: str, facts: Mapping[str, object]) -> bytes:
    """A page about what went wrong."""
    said = [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts.items()]
    return bare(
        root,
        title,
        tag(
            "section",
            tag("h1", title),
            tag("p", detail),
            tag("dl", *said) if said else "",
            tag("p", link(root, "To the dashboard", class_="button")),
            class_="alone",
        ),
    )


def _document(root: str, title: str, body: Markup, *, reload_s: int | None = None) -> bytes:
    # Who has no script sees a page that loads itself again; the script takes over otherwise.
    fallback = tag("noscript", tag("meta", http_equiv="refresh", content=reload_s)) if reload_s else ""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("title", f"{title} · Onefold"),
        tag("meta", name="viewport", content="width=device-width,initial-scale=1"),
        tag("link", rel="icon", href="data:,"),
        tag("link", rel="stylesheet", href=f"{root}/style.css"),
        tag("script", src=f"{root}/live.js", defer=True),
        fallback,
    )
    return join((Markup("<!doctype html>"), tag("html", head, body, lang="en"))).encode()
