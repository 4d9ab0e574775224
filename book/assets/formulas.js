// A formula in a sentence cannot be broken into lines.  One that is wider than its column gets a scroll bar of its own.
// Formulas that scroll, these and wide equations, can be reached with the tab key.
// A mark of punctuation after a formula, or a bracket before it, stays on its line.
(() => {
  const article = document.querySelector("article");
  if (!article) return;
  article.querySelectorAll("span.math").forEach((formula) => {
    const [before, after] = [formula.previousSibling, formula.nextSibling];
    const opening = before?.nodeType === Node.TEXT_NODE ? before.data.match(/[(\[“]+$/)?.[0] : "";
    const closing = after?.nodeType === Node.TEXT_NODE ? after.data.match(/^[.,;:!?)\]”’]+/)?.[0] : "";
    if (!opening && !closing) return;
    const line = document.createElement("span");
    line.className = "with-formula";
    formula.replaceWith(line);
    line.append(opening || "", formula, closing || "");
    if (opening) before.data = before.data.slice(0, -opening.length);
    if (closing) after.data = after.data.slice(closing.length);
  });
  const column = (formula) => {
    let block = formula.parentElement;
    while (getComputedStyle(block).display.startsWith("inline")) block = block.parentElement;
    const style = getComputedStyle(block);
    return block.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  };
  const mark = () => {
    const formulas = [...article.querySelectorAll("mjx-container:not([display])")];
    formulas.forEach((formula) => formula.classList.remove("wide-formula"));
    const wide = formulas.filter((formula) => formula.offsetWidth > column(formula));
    wide.forEach((formula) => formula.classList.add("wide-formula"));
    article.querySelectorAll("mjx-container, div.math").forEach((box) => {
      const scrolls = box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX === "auto";
      if (scrolls) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    });
  };
  // the article changes its size when formulas appear, when the window does, and when something is unfolded
  new ResizeObserver(mark).observe(article);
})();
