"""A route as data: HTTP, OpenAPI, the CLI and the laws are all read off it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Route:
    """One public function of a block, and how it is reached from outside.

    `path` holds parameters in braces ("/locks/{name}/acquire"); they and the query (GET) or the
    JSON body (others) fill the parameters of `fn` after `tx`, by name and type. What `fn` answers
    is the response; a `Page` has its cursor in it. `needs` is the right that the bearer token must
    carry ("locks:write"). `example` is a function over `tx` that prepares the ground and answers
    one valid set of arguments: the laws and the documentation call the route with it. `caller` names
    the parameter that gets the id of the token that calls; no request can fill it.
    """

    verb: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    fn: Callable[..., Any]
    needs: str
    example: Callable[[Any], dict[str, Any]] = field(default=lambda _tx: {})
    caller: str | None = None
