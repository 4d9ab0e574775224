// Shows what a link points to while the pointer or the keyboard focus is on it; Escape hides it.
// The scripts that sphinx_tippy writes for each page call `tippy(link, {content, ...})`.
(() => {
  const SHOW_AFTER = 250, HIDE_AFTER = 180, GAP = 8;
  const box = document.createElement("div");
  box.className = "tooltip-box";
  box.setAttribute("aria-hidden", "true");   // for the eye: whoever listens follows the link
  box.hidden = true;
  let link = null, timer = 0;

  const later = (action, delay) => { clearTimeout(timer); timer = setTimeout(action, delay); };
  const hide = () => { clearTimeout(timer); box.hidden = true; link = null; };

  // a copy to look at: it has no ids, and nothing in it can be clicked or focused
  const preview = (html) => {
    const template = document.createElement("template");
    template.innerHTML = html;
    template.content.querySelectorAll("script, button, input, .headerlink, .toggle-details__summary-text").forEach((e) => e.remove());
    template.content.querySelectorAll("[id]").forEach((e) => e.removeAttribute("id"));
    template.content.querySelectorAll("a").forEach((a) => {
      const span = document.createElement("span");
      span.append(...a.childNodes);
      a.replaceWith(span);
    });
    if (template.content.firstElementChild?.tagName !== "DT") return template.content;
    const list = document.createElement("dl");
    list.append(template.content);
    return list;
  };

  const place = () => {
    if (!link) return;
    const at = link.getBoundingClientRect(), width = document.documentElement.clientWidth, height = window.innerHeight;
    const below = at.bottom + GAP + box.offsetHeight <= height || at.top < height - at.bottom;
    box.style.left = `${Math.max(GAP, Math.min(at.left, width - box.offsetWidth - GAP))}px`;
    box.style.top = `${Math.max(GAP, below ? at.bottom + GAP : at.top - GAP - box.offsetHeight)}px`;
  };

  const typeset = async () => {
    if (!window.MathJax || !MathJax.typesetPromise) return;
    await MathJax.typesetPromise([box]);
    box.querySelectorAll("[tabindex]").forEach((e) => e.removeAttribute("tabindex"));
  };

  const show = (target, options) => {
    if (!box.isConnected) (document.querySelector("article") || document.body).append(box);
    link = target;
    box.replaceChildren(preview(options.content));
    box.hidden = false;
    place();
    typeset();
  };

  window.tippy = (target, options) => {
    const ask = () => later(() => show(target, options), SHOW_AFTER);
    target.addEventListener("pointerenter", (event) => { if (event.pointerType !== "touch") ask(); });
    target.addEventListener("pointerleave", () => later(hide, HIDE_AFTER));
    target.addEventListener("focus", () => { if (target.matches(":focus-visible")) ask(); });
    target.addEventListener("blur", hide);
    target.addEventListener("click", hide);
  };
  box.addEventListener("pointerenter", () => clearTimeout(timer));
  box.addEventListener("pointerleave", () => later(hide, HIDE_AFTER));
  new ResizeObserver(place).observe(box);   // formulas and pictures arrive late
  window.addEventListener("scroll", () => { if (!box.hidden) place(); }, { passive: true });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
})();
