// The page as the server draws it, kept up to date. Without this script everything works, by reloading.
"use strict";
(() => {
  const main = document.querySelector("main");
  const busy = () => main.querySelector("details[open], dialog[open]") || main.contains(document.activeElement);
  const again = () => {
    const form = main.querySelector("form[data-again]");
    if (form) form.requestSubmit();
  };
  again();
  if (!document.body.hasAttribute("data-live")) return;
  let source = null;
  const state = document.querySelector(".live");
  const listen = () => {
    if (document.hidden) { if (source) source.close(); source = null; return; }
    if (source) return;
    source = new EventSource(location.href);
    source.onopen = () => { state.textContent = "live"; };
    source.onerror = () => { state.textContent = "not live; reconnecting"; };
    source.onmessage = (event) => { if (!busy()) main.innerHTML = JSON.parse(event.data); };
  };
  document.addEventListener("visibilitychange", listen);
  listen();
})();
