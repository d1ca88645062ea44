"""Pages on which one chooses: the season, one work, one evening's seats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from examples.boxoffice import hall
from examples.boxoffice.catalogue import Work, genres
from examples.boxoffice.season import when
from examples.boxoffice.web.markup import Markup, h, join
from examples.boxoffice.web.plan import plan
from examples.boxoffice.web.posters import poster
from examples.boxoffice.web.shell import day_and_time, notice, page

from onefold import booking

COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)


def season(
    listed: Sequence[Work], *, nights: Mapping[str, booking.Show], genre: str, search: str
) -> Markup:
    """All works, or those of a genre, or those found.

    Args:
        listed: what to show.
        nights: the next performance of each work, by title.
        genre: the genre chosen, "" for all.
        search: what was looked for, "" for nothing.
    """
    current = Markup(' aria-current="true"')
    pills = [h('<a href="/"{}>Everything</a>', "" if genre or search else current)]
    pills += [h('<a href="/?genre={}"{}>{}</a>', name, current if name == genre else "", name) for name in genres()]
    cards = join(_card(work, nights.get(work.title)) for work in listed)
    body = h(
        """<div class="hero"><p class="eyebrow">The season</p><h1>Fifty evenings well spent</h1>
<p>Twenty-four centuries of tragedy, comedy and song, in one hall of two thousand seats. Choose a show, choose your
seats, be seated.</p></div>
<div class="filters">{}<form action="/" role="search"><input type="search" name="q" value="{}" maxlength="60"
placeholder="Title or author" aria-label="Search title or author"></form></div>{}<ul class="season">{}</ul>""",
        join(pills), search, "" if listed else h('<p class="lead">Nothing by that name this season.</p>'), cards,
    )  # fmt: skip
    return page("Season", body, place="season")


def _card(work: Work, show: booking.Show | None) -> Markup:
    night = h("Next: {}", day_and_time(show.starts_at_ms)) if show else Markup("No more performances")
    return h(
        """<li><a href="/works/{}">{}<h3>{}</h3><p class="muted">{} \N{MIDDLE DOT} {}</p>
<p class="small muted line">{}</p><p class="small when">{}</p></a></li>""",
        work.slug, poster(work), work.title, work.by, work.year_text, work.line, night,
    )  # fmt: skip


def work_page(work: Work, nights: Iterable[tuple[booking.Show, int]]) -> Markup:
    """One work and its performances, each with how many seats are free."""
    rows = join(_night(show, free) for show, free in nights)
    hours, minutes = divmod(work.minutes, 60)
    body = h(
        """<div class="work">{}<div><p class="eyebrow">{}</p><h1>{}</h1>
<p class="muted">{} \N{MIDDLE DOT} {} \N{MIDDLE DOT} {} h {} min with intervals</p><p class="lead">{}</p>
<h2>Performances</h2><ul class="nights">{}</ul></div></div>""",
        poster(work), work.genre, work.title, work.by, work.year_text, hours, minutes, work.line,
        rows or h("<li>All performances are over.</li>"),
    )  # fmt: skip
    return page(work.title, body)


def _night(show: booking.Show, free: int) -> Markup:
    moment = when(show.starts_at_ms)
    low = min(price.minor for price in show.prices.values())
    price = next(price for price in show.prices.values() if price.minor == low)
    left = "Sold out" if free == 0 else f"{free:,} of {hall.SEATS:,} seats free"
    return h(
        """<li><a href="/performances/{}"><span class="date">{}<span class="numeral">{}</span>{}</span>
<span><strong class="tabular">{}</strong> <span class="muted">{}, from {}</span>
<span class="small muted"><br>{}</span><progress class="fill" max="{}" value="{}" aria-label="{}"></progress></span>
<span class="go">{}</span></a></li>""",
        show.id, f"{moment:%b}", moment.day, f"{moment:%a}", f"{moment:%H:%M}",
        "matinee" if moment.hour < 17 else "evening", price, left, hall.SEATS, hall.SEATS - free, left,
        "Choose seats" if free else "Look in",
    )  # fmt: skip


def evening(
    show: booking.Show, work: Work | None, *, rows: Mapping[int, booking.RowMap], counts: tuple[int, int, int],
    mine: Mapping[int, frozenset[int]], form: str, basket: booking.Hold | None, alert: str,
) -> Markup:  # fmt: skip
    """The seat plan, live, and the ways to hold seats.

    Args:
        show: the performance.
        work: what is played.
        rows: as `plan` takes them.
        counts: how many seats are free, held and sold.
        mine: the visitor's own seats.
        form: the visitor's form token.
        basket: what the visitor holds here already.
        alert: what went wrong before, "" for nothing.
    """
    free, held, sold = counts
    told = notice(alert) or _basket(basket)
    body = h(
        """<p class="eyebrow">{when}</p><h1>{title}</h1>{told}
<div class="hall"><div><section class="board" id="board" data-live="/performances/{id}/live" aria-label="Seats">
<div class="bar"><span class="live" id="live">As of now</span><span class="numbers muted tabular">
<b data-count="free">{free}</b> free \N{MIDDLE DOT} <b data-count="held">{held}</b> held \N{MIDDLE DOT}
<b data-count="sold">{sold}</b> sold</span>
<button class="zoom" id="zoom" type="button" hidden>Come closer</button></div>
<div class="scroll">{plan}</div></section>{legend}</div>
<div class="panel">{best}{pick}
<section class="card"><h2>Prices</h2><ul class="prices">{prices}</ul></section></div></div>
<script type="application/json" id="prices">{data}</script>""",
        when=day_and_time(show.starts_at_ms), title=show.title, told=told, id=show.id, free=f"{free:,}",
        held=f"{held:,}", sold=f"{sold:,}", plan=plan(rows, mine=mine, pick=True), legend=_LEGEND,
        best=_best_form(show, form), pick=_pick_form(show, form), prices=_price_list(show), data=_price_data(show),
    )  # fmt: skip
    return page(work.title if work else show.title, body)


def _basket(basket: booking.Hold | None) -> Markup:
    if basket is None:
        return Markup()
    return h(
        '<p class="notice good">You hold {}. <a href="/holds/{}">Go to the till</a></p>',
        hall.places(basket.blocks), basket.id,
    )  # fmt: skip


def _best_form(show: booking.Show, form: str) -> Markup:
    counts = join(
        h('<option value="{}"{}>{}</option>', n, Markup(" selected") if n == 2 else "", n) for n in COUNTS
    )
    sections = join(h('<option value="{}">{}</option>', name, name) for name in _sections())
    return h(
        """<section class="card"><h2>Best available</h2><form method="post" action="/performances/{}/hold">
<input type="hidden" name="form" value="{}"><div class="fields"><label>Seats<select name="count">{}</select></label>
<label>Where<select name="section"><option value="">Anywhere</option>{}</select></label></div>
<button class="wide" id="best">Hold the best seats</button></form></section>""",
        show.id, form, counts, sections,
    )  # fmt: skip


def _pick_form(show: booking.Show, form: str) -> Markup:
    return h(
        """<section class="card"><h2>Your choice</h2><form method="post" action="/performances/{}/hold" id="pick">
<input type="hidden" name="form" value="{}"><input type="hidden" name="seats" value="">
<p class="chosen" id="chosen"><span class="muted">To choose seats in the plan, this page needs JavaScript.</span></p>
<p class="small muted" id="say" role="status"></p>
<div class="sum"><span>Together</span><b id="total">\N{EN DASH}</b></div>
<button class="wide" disabled>Hold these seats</button></form></section>""",
        show.id, form,
    )  # fmt: skip


def _price_list(show: booking.Show) -> Markup:
    return join(
        h('<li class="{}"><i></i>{}<b class="tabular">{}</b></li>', _css(category), category, show.prices[category])
        for category in hall.PRICES
        if category in show.prices
    )


def _price_data(show: booking.Show) -> Markup:
    data = {
        _css(name): {"minor": price.minor, "currency": price.currency, "text": str(price)}
        for name, price in show.prices.items()
    }
    return Markup(msgspec.json.encode(data).decode().replace("<", "\\u003c"))


def _sections() -> list[str]:
    return list(dict.fromkeys(bench.section for bench in hall.benches().values()))


def _css(category: str) -> str:
    return category.lower().replace(" ", "-")


_LEGEND = Markup(
    '<ul class="legend">'
    + "".join(
        f'<li><svg viewBox="0 0 22 22" class="{tier}" aria-hidden="true">'
        f'<circle cx="11" cy="11" r="8" class="{state}"/></svg>{word}</li>'
        for tier, state, word in (
            ("stalls-centre", "", "free, in the colour of its price"), ("", "held", "held by somebody"),
            ("", "sold", "sold"), ("", "mine", "yours"),
        )  # fmt: skip
    )
    + "</ul>"
)
