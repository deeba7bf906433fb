// What a reader with a screen reader, a keyboard or weak eyes would miss, as a list; and the lowest contrast.
() => {
  const wrong = [];
  const say = (what, element) => wrong.push(`${what}: ${element ? element.outerHTML.slice(0, 120) : ""}`);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const seen = (e) => e.getClientRects().length > 0 && getComputedStyle(e).visibility !== "hidden";
  if (!document.documentElement.lang) say("no language");
  if (!document.title.trim()) say("no title");
  if (all("main").length !== 1 || all("h1").length !== 1) say("not one main and one h1");
  let level = 0;
  for (const h of all("h1, h2, h3, h4, h5, h6")) {
    const next = Number(h.tagName[1]);
    if (next > level + 1) say("a heading is left out", h);
    if (!h.textContent.trim()) say("an empty heading", h);
    level = next;
  }
  const ids = all("[id]").map((e) => e.id);
  if (new Set(ids).size !== ids.length) say("an id is there twice");
  for (const e of all("img")) if (!e.alt.trim()) say("no words for a picture", e);
  for (const e of all("svg")) if (e.getAttribute("role") !== "img" || !e.getAttribute("aria-label")) say("no words for a drawing", e);
  for (const e of all("input, select, textarea")) if (!e.labels?.length && !e.getAttribute("aria-label")) say("no label", e);
  for (const e of all("button, a[href], summary")) if (!(e.textContent.trim() || e.getAttribute("aria-label"))) say("no name", e);
  for (const e of all("a[href]")) if (e.tabIndex < 0) say("out of the keyboard's reach", e);
  for (const e of all("[tabindex]")) if (e.tabIndex > 0) say("an order of its own", e);
  for (const t of all("table")) if (!t.querySelector("th")) say("a table without heads", t);
  for (const e of all("th")) if (!e.scope) say("a head without scope", e);
  for (const e of all("[aria-labelledby]")) if (!document.getElementById(e.getAttribute("aria-labelledby"))) say("no such label", e);
  for (const e of all("body *")) {
    const style = getComputedStyle(e);
    const scrolls = ["auto", "scroll"].includes(style.overflowX) && e.scrollWidth > e.clientWidth + 1;
    if (scrolls && seen(e) && e.tabIndex < 0 && e.tagName !== "TEXTAREA") say("scrolls, but not by keyboard", e);
  }
  if (document.documentElement.scrollWidth > innerWidth + 1) {
    const widest = all("body *").filter((e) => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".scroll, .hidden"));
    say(`the page is ${document.documentElement.scrollWidth} wide`, widest[0]);
  }

  const parse = (text) => (text.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const light = ([r, g, b]) => {
    const f = (c) => ((c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b);
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0.5) return c;
    }
    return [255, 255, 255];
  };
  let lowest = 99;
  for (const e of all("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !seen(e) || e.closest("script, .hidden, [aria-hidden=true], .dense")) continue;
    const style = getComputedStyle(e);
    const ink = parse(e.closest("svg") && e.tagName.toLowerCase() === "text" ? style.fill : style.color);
    const [a, b] = [light(ink), light(ground(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    lowest = Math.min(lowest, ratio);
    if (ratio < 4.5) say(`contrast ${ratio.toFixed(2)}`, e);
  }
  return { wrong, lowest };
}
