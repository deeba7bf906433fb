"use strict";
// The page is complete without this: it shows one step at a time and fills the boxes as they are reached.
(() => {
  const steps = [...document.querySelectorAll(".step")];
  const boxes = [...document.querySelectorAll(".box")];
  const [previous, next, all] = ["previous", "next", "all"].map((id) => document.getElementById(id));
  const place = document.getElementById("place");
  let now = 0; // 0 shows every step

  const show = (step) => {
    now = step;
    document.body.classList.toggle("stepping", now > 0);
    steps.forEach((each, at) => each.classList.toggle("hidden-step", at + 1 !== now));
    for (const box of boxes) {
      const at = Number(box.dataset.step);
      box.classList.toggle("now", at === now);
      box.classList.toggle("later", now > 0 && at > now);
    }
    for (const section of document.querySelectorAll("main section")) {
      section.hidden = now > 0 && !section.contains(steps[now - 1]);
    }
    previous.disabled = now <= 1;
    next.disabled = now === steps.length;
    all.disabled = now === 0;
    place.textContent = now > 0 ? `step ${now} of ${steps.length}` : `all ${steps.length} steps`;
  };

  previous.addEventListener("click", () => show(now - 1));
  next.addEventListener("click", () => show(now + 1));
  all.addEventListener("click", () => show(0));
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest(".scroll")) return;
    if (event.key === "ArrowLeft" && now > 1) show(now - 1);
    if (event.key === "ArrowRight" && now < steps.length) show(now + 1);
  });
  for (const box of boxes) {
    box.addEventListener("click", (event) => {
      event.preventDefault();
      show(Number(box.dataset.step));
    });
  }
  document.getElementById("controls").hidden = false;
  show(/^#step-\d+$/.test(location.hash) ? Math.min(Number(location.hash.slice(6)), steps.length) : 0);
})();
