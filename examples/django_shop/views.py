"""The pages: an async one that sells in a thread, and one that looks."""

from __future__ import annotations

import functools

import msgspec
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import IntegrityError, transaction
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.http import require_GET, require_POST
from examples.django_shop.models import Order
from examples.purchase import STATUS, Wanted, purchase

import onefold
from onefold import Database, OnefoldError, ledger


@functools.cache
def database() -> Database:
    """Opened by the first who asks, so that management commands open nothing."""
    return onefold.connect(settings.URL)


_wanted = msgspec.json.Decoder(Wanted)  # Made here, in one thread: msgspec cannot look at a class in two at once.


def sell(wanted: Wanted) -> str:
    """The whole sale: Django commits it."""
    with transaction.atomic():
        Order.objects.create(id=wanted.order, buyer=wanted.buyer, cents=wanted.cents)
        return purchase(onefold.django.use(), wanted)


@require_POST
async def buy(request: HttpRequest) -> JsonResponse:
    try:
        wanted = _wanted.decode(request.body)
        return JsonResponse({"event": await sync_to_async(sell)(wanted)}, status=201)
    except msgspec.DecodeError:  # A ValidationError is one.
        return JsonResponse({"code": "body"}, status=422)
    except IntegrityError:
        return JsonResponse({"code": "unique"}, status=409)
    except OnefoldError as error:
        return JsonResponse({"code": error.code}, status=STATUS.get(error.kind, 500))


@require_GET
async def wallet(_request: HttpRequest, buyer: str) -> JsonResponse:
    try:
        balance = await database().arun(ledger.balance, f"wallet/{buyer}")
    except OnefoldError as error:
        return JsonResponse({"code": error.code}, status=STATUS.get(error.kind, 500))
    return JsonResponse({"buyer": buyer, "cents": balance.posted.minor})


urlpatterns = [path("orders", buy), path("wallets/<str:buyer>", wallet)]
