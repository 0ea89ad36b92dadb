/* What the page shows: one candidate and one image at a time, in all sections below the table. */
"use strict";

const report = (() => {
  const SHEET = 680; // CSS pixels of A4 and Letter between margins
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const choosers = { candidate: byId("candidate"), image: byId("image") };
  const chosen = { candidate: 0, image: data.first };

  function draw(most = Infinity) {
    const { stages, blocks, origin, tolerance, results } = data.candidates[chosen.candidate];
    const { histogram, same_graphs: sameGraphs } = results[chosen.image];
    const width = (figure) => Math.max(280, Math.min(most, Math.floor(figure.getBoundingClientRect().width)));

    const figures = { histogram: byId("histogram-chart"), stages: byId("stages-chart"), blocks: byId("blocks-chart") };
    byId("histogram-note").textContent = `${data.images[chosen.image].name}: absolute differences, rounded to samples of ${histogram.bits} bits` +
      (sameGraphs ? ", with the same key graphs." : ".");
    charts.histogram(figures.histogram, histogram, width(figures.histogram));

    byId("stages").hidden = stages.length === 0;
    if (stages.length) charts.stages(figures.stages, stages, width(figures.stages));

    const over = blocks.find((block) => block.over);
    const start = origin?.block ? { block: origin.block, label: "starts here" } : { block: over?.name, label: "first over tolerance" };
    byId("blocks-note").textContent = blocks.length === 0
      ? "To see where a difference starts, and how near every block comes to the limit of fp16, run it again with --blocks."
      : `Every block's output on both sides, in the order of execution; of several images, the worst. ${origin ? sentence(origin.words) : ""}`;
    figures.blocks.hidden = blocks.length === 0;
    if (blocks.length) charts.blocks(figures.blocks, blocks, { start, tolerance, limit: data.limit }, width(figures.blocks));
  }

  const sentence = (words) => `${words[0].toUpperCase()}${words.slice(1)}.`;

  async function show() {
    const image = data.images[chosen.image];
    for (const [name, select] of Object.entries(choosers)) if (select) select.value = chosen[name];
    draw();
    if (!viewer) return;
    const part = byId("part-note");
    byId("viewer").hidden = !image.shown;
    if (!image.shown) return;
    part.hidden = !image.part;
    part.textContent = image.part;
    await viewer.show(image, chosen.candidate, { bits: data.candidates[chosen.candidate].results[chosen.image].histogram.bits, decades: data.decades });
  }

  for (const [name, select] of Object.entries(choosers)) {
    select?.addEventListener("change", () => {
      chosen[name] = Number(select.value);
      show();
    });
  }
  for (const button of document.querySelectorAll("button[data-image]")) {
    button.addEventListener("click", () => {
      chosen.candidate = Number(button.dataset.candidate);
      chosen.image = Number(button.dataset.image);
      show();
      byId("pictures").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
    });
  }

  let width = 0;
  new ResizeObserver(([{ contentRect }]) => {
    if (Math.abs(contentRect.width - width) < 2) return;
    if (width) draw();
    width = contentRect.width;
  }).observe(document.querySelector("main"));
  // Charts are as wide as the sheet, not as the screen: their letters stay legible.
  addEventListener("beforeprint", () => draw(SHEET));
  addEventListener("afterprint", () => draw());
  // The pictures come last in the page: what is above them is drawn before they are read.
  draw();
  return { start: show };
})();
