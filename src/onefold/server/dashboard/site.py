"""The site: who asks, which page, which action; logging in and out. Pages and actions stand beside it."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from onefold.core.errors import Denied, OnefoldError, Retry
from onefold.engine.database import Database
from onefold.engine.tx import Tx
from onefold.engine.wake import Waiter
from onefold.identity import audit, sessions, tokens
from onefold.server.auth import Gatekeeper
from onefold.server.dashboard import frame, parts
from onefold.server.dashboard.catalogue import ACTIONS, VIEWS
from onefold.server.dashboard.markup import Markup, join
from onefold.server.dashboard.request import Fields, Scene
from onefold.server.dashboard.views import Draw, Outcome, View
from onefold.server.problems import Headers, Refused, answer_to, safe_facts

PATH = "dashboard"
FIRST = "now"
COOKIE = "onefold_session"
LIVE_EVERY_S = 2.0  # From one drawing of a page that somebody looks at to the next.
HEARTBEAT_S = 15.0
LIFE_S = 900.0  # Then the browser comes again.

Reply = tuple[int, Headers, bytes, str]  # Status, headers, body, and who asked.


class Asked:
    """One request."""

    def __init__(self, scope: MutableMapping[str, Any], segments: list[str], headers: dict[bytes, bytes]) -> None:
        self.method: str = scope["method"]
        self.path = "/".join(segments) or FIRST
        self.query: bytes = scope["query_string"]
        self.headers = headers
        self.form = b""
        self.root: str = scope.get("root_path", "").rstrip("/") + "/" + PATH
        # A proxy in front says so; who pretends it gets a stricter cookie and nothing else.
        self.https = scope.get("scheme") == "https" or headers.get(b"x-forwarded-proto") == b"https"

    @property
    def follows(self) -> bool:
        """Whether the page is to be kept up to date."""
        return self.method == "GET" and b"text/event-stream" in self.headers.get(b"accept", b"")

    @property
    def cookie(self) -> tuple[str, str, str] | None:
        """Session, digest and form token, as `sessions.parse` says."""
        for part in self.headers.get(b"cookie", b"").split(b";"):
            name, _, value = part.strip().partition(b"=")
            if name == COOKIE.encode():
                return sessions.parse(value.decode("latin-1"))
        return None


class Dashboard:
    """Answers what is asked under /dashboard."""

    def __init__(self, db: Database, gatekeeper: Gatekeeper) -> None:
        self._db = db
        self._reader = db.reader()
        self._gatekeeper = gatekeeper

    @staticmethod
    def where(method: str, segments: list[str]) -> str:
        """Method and page for the log; never what the client sent."""
        path = "/".join(segments) or FIRST
        known = (
            path in VIEWS or path in frame.ASSETS or path in {"login", "logout"} or path.removeprefix("do/") in ACTIONS
        )
        return f"{method} /{PATH}/{path if known else '?'}"

    async def answer(self, asked: Asked) -> Reply:
        """The answer, an error too."""
        try:
            return await self._answer(asked)
        except Exception as error:
            return _failed(asked, error)

    async def follow(self, asked: Asked) -> LivePage:
        """A page that draws itself anew; refused unless somebody is logged in who may see it."""
        view = VIEWS.get(asked.path)
        if view is None or not view.live:
            raise Refused(404, "no_route", "There is no page here that could be followed.")
        fields = Fields(asked.query)
        did = fields.text("did", most=audit.ID_LENGTH_MAX)  # What was done is told as long as the page is looked at.
        draw = view.prepare(fields)
        fields.finish()

        async def drawn() -> Markup:
            person = await self._person(asked)
            if person is None:
                raise Refused(401, "session", "Nobody is logged in.")
            return (await self._drawn(asked, view, draw, person, did=did))[1]

        return LivePage(drawn, self._reader.waiter("dashboard"))

    async def _answer(self, asked: Asked) -> Reply:
        if asked.path in frame.ASSETS:
            _only(asked, "GET", "HEAD")
            kind, body = frame.ASSETS[asked.path]
            return 200, [(b"content-type", kind), *frame.COMMON], body, ""
        if asked.path == "login":
            return await self._login(asked)
        if asked.path == "logout":
            return await self._logout(asked)
        if asked.path.startswith("do/"):
            return await self._act(asked)
        view = VIEWS.get(asked.path)
        if view is None:
            raise Refused(404, "no_route", "There is no such page.")
        _only(asked, "GET", "HEAD")
        person = await self._person(asked)
        if person is None:
            return _to(f"{asked.root}/login")
        fields = Fields(asked.query)
        did = fields.text("did", most=audit.ID_LENGTH_MAX)
        draw = view.prepare(fields)
        fields.finish()
        scene, main = await self._drawn(asked, view, draw, person, did=did)
        return 200, frame.HTML, frame.page(scene, view, asked.path, VIEWS, main), person.token.id

    async def _drawn(
        self, asked: Asked, view: View, draw: Draw, person: sessions.Person, *, did: str
    ) -> tuple[Scene, Markup]:
        scene = _scene(asked, person)
        if not view.open_to(scene):
            raise Denied("The token does not carry the right.", code="right", needs=view.needs)
        if not person.token.space_name and asked.path == FIRST:
            # On PostgreSQL it asks the server.
            scene.numbers = await asyncio.to_thread(self._db.metrics)
        main = await self._db.at(person.token.space_name).reader().arun(_draw, draw, scene, did)
        return scene, main

    async def _act(self, asked: Asked) -> Reply:
        action = ACTIONS.get(asked.path.removeprefix("do/"))
        if action is None:
            raise Refused(404, "no_route", "There is no such action.")
        _only(asked, "POST")
        person = await self._person(asked)
        if person is None:
            return _to(f"{asked.root}/login")
        scene = _scene(asked, person)
        fields = _form_of(asked, scene.form_token)
        if action.of_root and scene.token.space_name:
            raise Denied("Only tokens of the root space may.", code="right", needs=action.needs)
        if not scene.may(action.needs):
            raise Denied("The token does not carry the right.", code="right", needs=action.needs)
        do = action.prepare(fields)
        fields.finish()
        outcome: Outcome = await self._db.at(person.token.space_name).arun(do, scene)
        return _to(scene.at(outcome.path, {**outcome.query, "did": outcome.entry.id}), who=person.token.id)

    # -- who asks ---------------------------------------------------------------------------------

    async def _person(self, asked: Asked) -> sessions.Person | None:
        """Who is logged in: asked of the database each time, so that an end holds at once."""
        cookie = asked.cookie
        if cookie is None:
            return None
        try:
            return await self._reader.arun(sessions.verify, cookie[0], digest=cookie[1])
        except Denied:
            return None

    async def _login(self, asked: Asked) -> Reply:
        if asked.method in {"GET", "HEAD"}:
            return 200, frame.HTML, frame.login(asked.root), ""
        _only(asked, "GET", "HEAD", "POST")
        _must_be_ours(asked)
        fields = Fields(asked.form)
        sent = fields.must("token").strip()
        fields.finish()
        secret, digest = sessions.new_secret()
        try:
            caller = await self._gatekeeper.caller(b"Bearer " + sent.encode("latin-1", "replace"))
            session = await self._db.arun(_log_in, caller.token, digest)
        except (Refused, Denied) as error:
            if isinstance(error, Refused) and error.status != 401:
                raise
            return 401, frame.HTML, frame.login(asked.root, "The token is not valid."), ""
        value = sessions.cookie(session.id, secret)
        cookie = _cookie(asked, value, max_age_s=sessions.TTL_MS_DEFAULT // 1_000)
        return _to(asked.root, cookie=cookie, who=session.token_id)

    async def _logout(self, asked: Asked) -> Reply:
        _only(asked, "POST")
        person = await self._person(asked)
        if person is not None:
            _form_of(asked, _scene(asked, person).form_token).finish()
            await self._db.arun(_log_out, person)
        return _to(f"{asked.root}/login", cookie=_cookie(asked, "", max_age_s=0))


class LivePage:
    """A page that is drawn anew every `LIVE_EVERY_S` and sent when it has changed."""

    def __init__(self, draw: Callable[[], Awaitable[Markup]], waiter: Waiter) -> None:
        self._draw = draw
        self.waiter = waiter
        self._ended = False

    def end(self) -> None:
        """Stop soon; from the loop's thread."""
        self._ended = True
        self.waiter.wake()

    async def page(self) -> Markup:
        """The page as it is now."""
        return await self._draw()

    async def run(self, first: Markup, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Send it, and again whenever it has changed."""
        sent, now = None, first
        over = time.monotonic() + LIFE_S
        quiet_since = time.monotonic()
        while not self._ended and time.monotonic() < over:
            if now != sent:
                await send(b"data: " + msgspec.json.encode(str.__str__(now)) + b"\n\n")
                sent, quiet_since = now, time.monotonic()
            elif time.monotonic() >= quiet_since + HEARTBEAT_S:
                await send(b":\n\n")
                quiet_since = time.monotonic()
            await self.waiter.await_(LIVE_EVERY_S)
            try:
                now = await self._draw()
            except Retry:  # Busy; the page that is there still stands.
                continue


def _draw(tx: Tx, draw: Draw, scene: Scene, did: str) -> Markup:
    scene.now_ms = tx.now_ms
    done = None
    if did:
        try:
            entry = audit.get(tx, did)
        except OnefoldError:
            raise Refused(400, "parameter", "There is no such action.") from None
        if entry.actor != scene.token.id:
            raise Refused(400, "parameter", "There is no such action of yours.")
        outcome = ", ".join(f"{name}: {value}" for name, value in entry.facts.items())
        done = (entry.action, entry.subject, f"{outcome}." if outcome else "", entry.id)
    return join((parts.said(scene, done), draw(tx, scene)))


def _log_in(tx: Tx, token: tokens.Token, digest: str) -> sessions.Session:
    session = sessions.begin(tx, token.id, digest=digest)
    audit.record(tx, "sessions.begin", session.id, actor=token.id, reason="Logged in.")
    return session


def _log_out(tx: Tx, person: sessions.Person) -> None:
    session = sessions.end(tx, person.session.id)
    audit.record(tx, "sessions.end", session.id, actor=person.token.id, reason="Logged out.")


def _scene(asked: Asked, person: sessions.Person) -> Scene:
    cookie = asked.cookie
    assert cookie is not None, "a person has shown a cookie"
    return Scene(asked.root, person.token, cookie[2], 0)


def _form_of(asked: Asked, form_token: str) -> Fields:
    """The fields of a form that this site gave out to this session, or 403."""
    _must_be_ours(asked)
    fields = Fields(asked.form)
    if not _same(fields.text("form_token"), form_token):
        raise Refused(403, "form_token", "The form is not one of this session. Load the page again.")
    return fields


def _must_be_ours(asked: Asked) -> None:
    """Refuse a form that another site made the browser send; programs say nothing of where they come from."""
    site = asked.headers.get(b"sec-fetch-site")
    if site is not None:
        if site not in {b"same-origin", b"none"}:
            raise Refused(403, "origin", "The form came from another site.")
        return
    origin = asked.headers.get(b"origin")
    if origin is not None and origin.partition(b"://")[2] != asked.headers.get(b"host", b""):
        raise Refused(403, "origin", "The form came from another site.")


def _same(sent: str, right: str) -> bool:
    return hmac.compare_digest(sent.encode(), right.encode())


def _only(asked: Asked, *methods: str) -> None:
    if asked.method not in methods:
        allow = ", ".join(methods).encode()
        raise Refused(405, "method", "The path knows other methods.", headers=[(b"allow", allow)])


def _to(address: str, *, cookie: tuple[bytes, bytes] | None = None, who: str = "") -> Reply:
    return 303, [(b"location", address.encode()), *frame.COMMON, *([cookie] if cookie else [])], b"", who


def _cookie(asked: Asked, value: str, *, max_age_s: int) -> tuple[bytes, bytes]:
    secure = "; Secure" if asked.https else ""
    text = f"{COOKIE}={value}; Path={asked.root}; Max-Age={max_age_s}; HttpOnly; SameSite=Strict{secure}"
    return b"set-cookie", text.encode()


def _failed(asked: Asked, error: Exception) -> Reply:
    """An error as a page; what nobody expected is logged as it is for the API."""
    where = Dashboard.where(asked.method, asked.path.split("/"))
    status, headers, body = answer_to(error, where)
    problem: dict[str, Any] = msgspec.json.decode(body)
    kept = [(name, value) for name, value in headers if name in {b"retry-after", b"allow", b"connection"}]
    facts = safe_facts(problem.get("facts", {}))
    if problem.get("error_id"):
        facts["error id"] = problem["error_id"]
    title = "Refused" if problem["code"] in {"form_token", "origin"} else problem["title"]
    page = frame.failure(asked.root, title, problem.get("detail", ""), facts)
    return status, [*frame.HTML, *kept], page, ""
