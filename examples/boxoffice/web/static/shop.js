// What pages can do beyond links and forms: move with the crowd, pick seats, count down.
"use strict";

const SEATS_MAX = 10;
const STATES = ["", "held", "sold"];
const WORDS = { "": "free", held: "held by somebody", sold: "sold", mine: "yours" };

const plan = document.getElementById("plan");
if (plan) startPlan(plan);
document.querySelectorAll("[data-until]").forEach(startClock);
document.querySelectorAll("[data-receipt]").forEach(startReceipt);
document.querySelectorAll("[data-paying]").forEach(startPaying);
document.querySelectorAll("form[data-once]").forEach((form) => form.addEventListener("submit", () => {
  // The key in the form makes a second post harmless; this only says that the first is on its way.
  const button = form.querySelector("button");
  setTimeout(() => { button.disabled = true; button.textContent = form.dataset.once; });
}));

function startPlan(svg) {
  const rows = new Map([...svg.querySelectorAll("g[data-row]")].map((g) => [g.dataset.row, g]));
  const picking = svg.dataset.pick === "1";
  const prices = JSON.parse(document.getElementById("prices")?.textContent || "{}");
  const tip = Object.assign(document.createElement("div"), { className: "tip", hidden: true });
  document.body.append(tip);
  let picked = { row: null, seats: new Set() };

  const seatOf = (target) => target instanceof SVGCircleElement && target.parentNode.dataset.row ? {
    circle: target, g: target.parentNode, row: target.parentNode.dataset.row,
    number: [...target.parentNode.children].indexOf(target) + 1,
  } : null;
  const wordsFor = (seat) => {
    const state = seat.circle.classList.contains("picked") ? "chosen" : WORDS[stateOf(seat.circle)];
    const price = prices[seat.g.getAttribute("class")];
    return `${seat.g.dataset.name}, seat ${seat.number}: ${state}${price && state !== "sold" ? `, ${price.text}` : ""}`;
  };

  svg.addEventListener("pointermove", (event) => {
    const seat = event.pointerType !== "touch" && seatOf(event.target);
    tip.hidden = !seat;
    if (!seat) return;
    tip.textContent = wordsFor(seat);
    const half = tip.offsetWidth / 2 + 8;
    tip.style.left = `${Math.min(Math.max(event.clientX, half), innerWidth - half)}px`;
    tip.style.top = `${event.clientY}px`;
  });
  svg.addEventListener("pointerleave", () => { tip.hidden = true; });

  follow(svg, (change) => {
    for (const [row, states] of Object.entries(change.rows)) {
      const g = rows.get(row);
      if (!g) continue;
      [...states].forEach((digit, index) => {
        const circle = g.children[index];
        const next = STATES[Number(digit)];
        const now = stateOf(circle);
        if (!circle || now === "mine" || now === next) return;
        circle.classList.remove("held", "sold");
        if (next) circle.classList.add(next);
        if (!change.whole) flash(circle);
        if (next && picked.row === row && picked.seats.delete(index + 1)) {
          circle.classList.remove("picked");
          say("Somebody was faster: one of your seats is gone.");
          show();
        }
      });
    }
    for (const name of ["free", "held", "sold"]) {
      const place = document.querySelector(`[data-count=${name}]`);
      if (place) place.textContent = change[name].toLocaleString("en");
    }
  });

  const scroller = svg.closest(".scroll");
  const zoom = document.getElementById("zoom");
  const nearer = (near, x = 0.5, y = 0.3) => {
    scroller.classList.toggle("near", near);
    zoom.textContent = near ? "Whole hall" : "Come closer";
    zoom.setAttribute("aria-pressed", String(near));
    scroller.scrollLeft = x * svg.clientWidth - scroller.clientWidth / 2;
    if (near) scrollBy({ top: y * svg.getBoundingClientRect().height + svg.getBoundingClientRect().top - innerHeight / 2 });
  };
  zoom.hidden = false;
  zoom.addEventListener("click", () => nearer(!scroller.classList.contains("near")));
  if (!picking) return;

  // On a phone a seat in the whole hall is smaller than a fingertip: the first tap comes closer.
  svg.addEventListener("click", (event) => {
    const box = svg.getBoundingClientRect();
    if (box.width < 700 && !scroller.classList.contains("near")) {
      nearer(true, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
      return;
    }
    const seat = seatOf(event.target);
    if (seat) toggle(seat);
  });

  function toggle(seat) {
    if (stateOf(seat.circle)) return say(`${wordsFor(seat)}.`);
    if (picked.row !== seat.row) {
      if (picked.seats.size) say("One order is for one row; started again here.");
      svg.querySelectorAll(".picked").forEach((circle) => circle.classList.remove("picked"));
      picked = { row: seat.row, seats: new Set() };
    }
    if (picked.seats.delete(seat.number)) {
      seat.circle.classList.remove("picked");
    } else if (picked.seats.size < SEATS_MAX) {
      picked.seats.add(seat.number);
      seat.circle.classList.add("picked");
    } else {
      return say(`An order is for ${SEATS_MAX} seats at most.`);
    }
    say("");
    if (!tip.hidden) tip.textContent = wordsFor(seat);
    show();
  }

  function show() {
    const seats = [...picked.seats].sort((a, b) => a - b);
    const g = rows.get(picked.row);
    const price = g && prices[g.getAttribute("class")];
    const form = document.getElementById("pick");
    form.querySelector("[name=seats]").value = seats.length ? `${picked.row}:${seats.join(",")}` : "";
    form.querySelector("button").disabled = !seats.length;
    document.getElementById("chosen").textContent = seats.length
      ? `${g.dataset.name}, ${seats.length > 1 ? "seats" : "seat"} ${seats.join(", ")}` : "Choose seats in the plan.";
    const minor = seats.length && price ? seats.length * price.minor : 0;
    document.getElementById("total").textContent = minor ? `${(minor / 100).toFixed(2)} ${price.currency}` : "\u2013";
  }

  // With the keyboard: Tab enters the plan once, arrows walk through it, Enter or Space chooses.
  let at = null;
  const stand = (circle) => {
    at?.setAttribute("tabindex", "-1");
    at = circle;
    const seat = seatOf(circle);
    circle.setAttribute("tabindex", "0");
    circle.setAttribute("role", "button");
    circle.setAttribute("aria-label", wordsFor(seat));
  };
  stand(svg.querySelector("g[data-row] circle"));
  svg.addEventListener("focusin", (event) => { if (seatOf(event.target)) stand(event.target); });
  svg.addEventListener("keydown", (event) => {
    const seat = seatOf(event.target);
    if (!seat) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      toggle(seat);
      return stand(seat.circle);
    }
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = nearest(svg, seat.circle, step);
    if (next) { stand(next); next.focus(); }
  });
  show();
}

function stateOf(circle) {
  if (!circle) return "";
  return circle.classList.contains("mine") ? "mine" : circle.classList.contains("sold") ? "sold"
    : circle.classList.contains("held") ? "held" : "";
}

function nearest(svg, from, [dx, dy]) {
  const x = from.cx.baseVal.value, y = from.cy.baseVal.value;
  let best = null, least = Infinity;
  for (const circle of svg.querySelectorAll("g[data-row] circle")) {
    const along = (circle.cx.baseVal.value - x) * dx + (circle.cy.baseVal.value - y) * dy;
    const across = Math.abs((circle.cx.baseVal.value - x) * dy) + Math.abs((circle.cy.baseVal.value - y) * dx);
    const far = along + 3 * across;
    if (along > 4 && far < least) { best = circle; least = far; }
  }
  return best;
}

function flash(circle) {
  circle.classList.add("moved");
  circle.addEventListener("animationend", () => circle.classList.remove("moved"), { once: true });
}

function follow(svg, apply) {
  const sign = document.getElementById("live");
  const source = new EventSource(document.getElementById("board").dataset.live);
  const word = (on) => { sign.classList.toggle("on", on); sign.textContent = on ? "Live" : "Connecting\u2026"; };
  source.addEventListener("seats", (event) => { word(true); apply(JSON.parse(event.data)); });
  source.onerror = () => word(false);
  addEventListener("pagehide", () => source.close());
}

function say(text) {
  const place = document.getElementById("say");
  if (place) place.textContent = text;
}

function startClock(place) {
  // The server said what time it has; only the difference to it counts, not this machine's clock.
  const left0 = Number(place.dataset.until) - Number(place.dataset.now);
  const whole = Number(place.dataset.ttl);
  const started = performance.now();
  const hand = place.querySelector(".hand");
  const round = 2 * Math.PI * hand.r.baseVal.value;
  const tick = () => {
    const left = Math.max(0, left0 - (performance.now() - started));
    const seconds = Math.ceil(left / 1000);
    place.querySelector(".numeral").textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
    hand.style.strokeDasharray = `${round * Math.min(1, left / whole)} ${round}`;
    place.classList.toggle("late", left < 60_000);
    if (left > 0) return setTimeout(tick, 250);
    document.getElementById("over")?.removeAttribute("hidden");
    document.querySelectorAll("#pay button, #card button").forEach((button) => { button.disabled = true; });
  };
  tick();
}

async function startPaying(place) {
  // Ends with the page: whatever the bank said, the server knows where to go on.
  for (let wait = 200; ; wait = Math.min(2000, wait * 1.3)) {
    await new Promise((resolve) => setTimeout(resolve, wait));
    const answer = await fetch(place.dataset.paying, { headers: { accept: "application/json" } }).catch(() => null);
    const payment = answer?.ok ? await answer.json() : null;
    if (payment && (payment.state !== "paying" || payment.silent !== Boolean(place.dataset.silent))) return location.reload();
  }
}

async function startReceipt(place) {
  for (let wait = 150; place.dataset.receipt && wait < 20_000; wait *= 1.4) {
    await new Promise((resolve) => setTimeout(resolve, wait));
    const answer = await fetch(place.dataset.receipt, { headers: { accept: "application/json" } }).catch(() => null);
    const receipt = answer?.ok ? (await answer.json()).receipt : null;
    if (!receipt?.sent_at_ms) continue;
    place.className = "state sent";
    place.textContent = "Receipt sent";
    return;
  }
}
