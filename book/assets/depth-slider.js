// Turns the frames of a depth slider into one frame and a range input.
// Without this file, and in print, all frames stand side by side.
document.querySelectorAll("figure.depth-slider").forEach((figure, n) => {
  const frames = [...figure.querySelectorAll(".frame")];
  const pictures = frames.map((frame) => frame.querySelector("img"));
  const bar = document.createElement("div");
  const label = document.createElement("label");
  const input = document.createElement("input");
  const output = document.createElement("output");
  bar.className = "depth-bar";
  input.id = `depth-slider-${n}`;
  label.htmlFor = input.id;
  label.textContent = figure.dataset.label;
  Object.assign(input, { type: "range", min: 0, max: frames.length - 1, step: 1, value: figure.dataset.start });
  output.setAttribute("aria-hidden", "true");   // the input announces its value itself
  bar.append(label, input, output);

  const show = () => {
    const k = Number(input.value);
    frames.forEach((frame, i) => frame.classList.toggle("shown", i === k));
    input.setAttribute("aria-valuetext", `${frames[k].dataset.depth}. ${pictures[k].alt}`);
    output.textContent = frames[k].dataset.depth;
  };
  // frames are fetched when somebody reaches for the slider, not when the page is opened
  const fetchAll = () => pictures.forEach((picture) => { picture.loading = "eager"; });
  ["pointerenter", "focus", "touchstart"].forEach((event) => input.addEventListener(event, fetchAll, { once: true, passive: true }));
  input.addEventListener("input", show);
  window.addEventListener("beforeprint", fetchAll);
  figure.insertBefore(bar, figure.querySelector("figcaption"));
  figure.classList.add("live");
  show();
});
