"""Pages after the choice: the till with its clock, the order with its tickets, all orders."""

from __future__ import annotations

from collections.abc import Sequence

from examples.boxoffice import hall, wallets
from examples.boxoffice.catalogue import by_title
from examples.boxoffice.desk import TTL_MS, Bought, Till
from examples.boxoffice.paying import CARDS, PAYING_MS, Paid, Paying
from examples.boxoffice.web.markup import Markup, h, join
from examples.boxoffice.web.posters import poster
from examples.boxoffice.web.shell import clock_time, day_and_time, notice, page, seats_text

from onefold import Money, booking

# For browsers without the script, which asks more often.
_AGAIN = Markup('<noscript><meta http-equiv="refresh" content="3"></noscript>')
_CHARGE = {
    "captured": "Taken", "partially_refunded": "Taken, part of it given back", "refunded": "Given back",
    "disputed": "Disputed: your bank asks about it",
}  # fmt: skip
DECLINED = (
    "Your card was declined, and nothing was charged. The seats are still yours: take another card, or pay from your "
    "wallet."
)


def till(shown: Till, *, form: str, key: str, alert: str) -> Markup:
    """Held seats, the time that is left, and the button that buys.

    Args:
        shown: what is held.
        form: the visitor's form token.
        key: what makes a second press of the button harmless.
        alert: what went wrong before, "" for nothing.
    """
    hold, show = shown.hold, shown.show
    enough = shown.balance.minor >= hold.price.minor
    tell = alert or ("" if enough else "There is not enough in your wallet: pay by card, or top it up first.")
    body = h(
        """<p class="eyebrow">The till</p><h1>{title}</h1>{alert}<p class="notice" id="over" hidden>Your time is over:
the seats are on sale again. <a href="/performances/{show}">Choose anew</a></p>
{clock}
<div class="till pay"><div>{tickets}</div><section class="card"><h2>Payment</h2>
<dl><dt>{seats}</dt><dd class="tabular">{price}</dd><dt>In your wallet</dt><dd class="tabular">{balance}</dd>
<dt>Afterwards</dt><dd class="tabular">{rest}</dd></dl>
<div class="buttons"><form method="post" action="/holds/{hold}/pay" id="pay" data-once="Paying\N{HORIZONTAL ELLIPSIS}">
<input type="hidden" name="form" value="{form}"><input type="hidden" name="key" value="{key}">
<button class="wide"{off}>Pay {price} from wallet</button></form>
<form method="post" action="/holds/{hold}/card" id="card" data-once="Asking your bank\N{HORIZONTAL ELLIPSIS}">
<input type="hidden" name="form" value="{form}"><input type="hidden" name="key" value="{key}">
<label>Card<select name="card">{cards}</select></label>
<button class="wide">Pay {price} by card</button></form>
<form method="post" action="/holds/{hold}/release"><input type="hidden" name="form" value="{form}">
<button class="wide quiet">Give the seats back</button></form></div></section></div>""",
        title=show.title, alert=notice(tell), show=show.id, hold=hold.id, form=form, key=key,
        clock=_clock(hold.expires_at_ms, shown.now_ms, TTL_MS),
        tickets=_tickets(show, hold.blocks), seats=seats_text(_count(hold.blocks)), price=hold.price,
        balance=shown.balance, rest=shown.balance - hold.price if enough else Markup("\N{EN DASH}"),
        off="" if enough else Markup(" disabled"),
        cards=join(h('<option value="{}">{}</option>', token, name) for token, name in CARDS.items()),
    )  # fmt: skip
    return page("Till", body)


def payment(shown: Paying, *, form: str) -> Markup:
    """A payment by card that was not paid (yet).

    Args:
        shown: how it stands.
        form: the visitor's form token.
    """
    return _paying(shown, form) if shown.state == "paying" else _ended(shown)


def _paying(shown: Paying, form: str) -> Markup:
    silent = "Your bank has not answered yet. It is asked again, under the same number: you are charged once at most."
    body = h(
        """<p class="eyebrow">The till</p><h1>Asking your bank\N{HORIZONTAL ELLIPSIS}</h1>
<p class="lead" role="status">
<span class="state" data-paying="/payments/{id}" data-silent="{known}">Paying</span> {price} by card. {silent}
This page goes on by itself.</p>{clock}
<div class="buttons"><form method="post" action="/holds/{hold}/release">
<input type="hidden" name="form" value="{form}"><button class="quiet">Give the seats back</button></form>
<p class="muted small">Should your bank pay after that all the same, the money goes back by itself.</p></div>""",
        id=shown.id, price=shown.price, hold=shown.hold, form=form, known="yes" if shown.silent else "",
        silent=silent if shown.silent else "", clock=_clock(shown.until_ms, shown.now_ms, PAYING_MS),
    )  # fmt: skip
    return page("Paying", body, head=_AGAIN)


def _ended(shown: Paying) -> Markup:
    declined = shown.state == "declined"
    title = "Your card was declined." if declined else "This payment has ended."
    back = "If your bank pays after this, the money goes back by itself."
    if shown.back is not None:
        back = f"Your bank paid when it was too late: {shown.back} are on their way back to your card."
    body = h(
        """<p class="eyebrow">The till</p><h1>{title}</h1><p class="lead">{text} The seats are on sale again.</p>
<p><a class="button" href="/">To the season</a> <a class="button quiet" href="/orders">Orders and wallet</a></p>""",
        title=title, text="Nothing was charged." if declined else back,
    )  # fmt: skip
    return page("Payment", body)


def _clock(until: int, now_ms: int, whole_ms: int) -> Markup:
    return h(
        """<div class="clock" data-until="{}" data-now="{}" data-ttl="{}" role="timer">
<svg viewBox="0 0 100 100" aria-hidden="true"><circle class="track" cx="50" cy="50" r="42"/>
<circle class="hand" cx="50" cy="50" r="42"/></svg>
<div><div class="numeral tabular">until {}</div><div class="muted">These seats are yours to buy until {}.</div></div>
</div>""",
        until, now_ms, whole_ms, clock_time(until), clock_time(until),
    )  # fmt: skip


def order(shown: Bought) -> Markup:
    """Tickets, whether the receipt was sent, and how it was paid."""
    sold = shown.order
    if shown.receipt is not None:
        state = h('<span class="state sent">Receipt sent at {}</span>', clock_time(shown.receipt.at_ms))
    else:
        state = h('<span class="state" data-receipt="/orders/{}">Receipt on its way</span>', sold.id)
    body = h(
        """<p class="eyebrow">Order</p><h1>Enjoy the show.</h1><p class="lead">{title}, {when}.</p>
<p aria-live="polite">{state}</p>{tickets}
<section class="card total"><dl><dt>Price</dt><dd class="tabular">{price}</dd>{paid}<dt>Bought</dt><dd>{at}</dd>
<dt>Order</dt><dd class="small tabular">{id}</dd></dl></section>
<p class="noprint"><a class="button quiet" href="/performances/{show}">See your seats in the hall</a></p>""",
        title=shown.show.title, when=day_and_time(shown.show.starts_at_ms), state=state, id=sold.id,
        tickets=_tickets(shown.show, sold.blocks), price=sold.price, show=sold.show_id,
        at=f"{day_and_time(sold.created_at_ms)}", paid=_paid(shown.paid) if shown.paid else "",
    )  # fmt: skip
    return page("Your order", body, place="orders")


def _paid(paid: Paid) -> Markup:
    lines = [("Paid", f"By card: {paid.card}" if paid.card else "From your wallet")]
    if paid.charge is not None:
        lines.append(("Charge", _CHARGE.get(paid.charge, paid.charge.replace("_", " "))))
    if paid.going_back.minor:
        lines.append(("Refund", f"{paid.going_back} on the way to your card"))
    if paid.went_back.minor:
        lines.append(("Refunded", f"{paid.went_back} back on your card"))
    if paid.late.minor:
        lines.append(("Came too late", f"{paid.late} from a card goes back to it by itself"))
    return join(h("<dt>{}</dt><dd>{}</dd>", *line) for line in lines)


def orders(listed: Sequence[Bought], balance: Money, *, form: str, key: str) -> Markup:
    """All orders of the visitor, and the wallet."""
    rows = join(
        h(
            """<li><a href="/orders/{}"><strong>{}</strong><span class="tabular">{}</span>
<span class="muted small">{} \N{MIDDLE DOT} {}</span><span class="small muted">{}</span></a></li>""",
            one.order.id, one.show.title, one.order.price, day_and_time(one.show.starts_at_ms),
            hall.places(one.order.blocks), "receipt sent" if one.receipt else "receipt on its way",
        )
        for one in listed
    )  # fmt: skip
    nothing = h('<p class="muted">No orders yet. <a href="/">See what is on.</a></p>')
    body = h(
        """<h1>Orders &amp; wallet</h1><div class="till"><div><h2>Orders</h2>{}</div>
<section class="card"><h2>Wallet</h2><div class="sum"><span>Play money</span><b class="tabular">{}</b></div>
<form method="post" action="/wallet" data-once="One moment\N{HORIZONTAL ELLIPSIS}">
<input type="hidden" name="form" value="{}"><input type="hidden" name="key" value="{}">
<button class="wide quiet">Top up {}</button></form></section></div>""",
        h('<ul class="orders">{}</ul>', rows) if listed else nothing, balance, form, key, wallets.TOP_UP,
    )  # fmt: skip
    return page("Orders", body, place="orders")


def _tickets(show: booking.Show, blocks: Sequence[booking.Block]) -> Markup:
    work = by_title().get(show.title)
    art = poster(work) if work else Markup('<svg class="poster"></svg>')
    return h(
        '<div class="tickets">{}</div>',
        join(_ticket(show, block, seat, art) for block in blocks for seat in block.seats),
    )


def _ticket(show: booking.Show, block: booking.Block, seat: int, art: Markup) -> Markup:
    return h(
        """<div class="ticket">{}<div class="body"><h3>{}</h3><p class="muted small">{}<br>{}</p>
<p><strong>{}</strong>, row {}</p></div><div class="stub"><span class="small muted">Seat</span>
<span class="numeral">{}{}</span><span class="small muted tabular">{}</span></div></div>""",
        art, show.title, day_and_time(show.starts_at_ms), hall.NAME, block.section, block.label, block.label, seat,
        Money(block.price.minor // len(block.seats), block.price.currency),
    )  # fmt: skip


def _count(blocks: Sequence[booking.Block]) -> int:
    return sum(len(block.seats) for block in blocks)
