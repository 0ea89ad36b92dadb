/* Selection of the candidate and the image that the sections below the table show. */
"use strict";

const report = (() => {
  const SHEET = 680; // printable width of A4 and Letter in CSS pixels
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const choosers = { candidate: byId("candidate"), image: byId("image") };
  const chosen = { candidate: 0, image: data.first };

  function draw(most = Infinity) {
    const { stages, blocks, divergence, tolerance, factor, results } = data.candidates[chosen.candidate];
    const { histogram, same_graphs: sameGraphs } = results[chosen.image];
    const width = (figure) => Math.max(280, Math.min(most, Math.floor(figure.getBoundingClientRect().width)));

    const figures = { histogram: byId("histogram-chart"), stages: byId("stages-chart"), blocks: byId("blocks-chart") };
    byId("histogram-note").textContent = `${data.images[chosen.image].name}: absolute differences, rounded to samples of ${histogram.bits} bits` +
      (sameGraphs ? ", with the same key graphs." : ".");
    charts.histogram(figures.histogram, histogram, width(figures.histogram));

    byId("stages").hidden = stages.length === 0;
    if (stages.length) charts.stages(figures.stages, stages, width(figures.stages));

    const over = blocks.find((block) => block.over);
    const start = divergence?.block ? { block: divergence.block, label: "starts here" } : { block: over?.name, label: "first over tolerance" };
    byId("blocks-note").textContent = blocks.length === 0
      ? "To see where a difference starts, and how close every block comes to the limit of fp16, repeat the comparison with --blocks."
      : `Outputs of every block, in the order of execution; the worst of several images. ${divergence ? sentence(divergence.words) : ""}`;
    figures.blocks.hidden = blocks.length === 0;
    if (blocks.length) charts.blocks(figures.blocks, blocks, { start, tolerance, factor, limit: data.limit }, width(figures.blocks));
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
  // Charts are drawn at the width of the paper, so that their text stays legible.
  addEventListener("beforeprint", () => draw(SHEET));
  addEventListener("afterprint", () => draw());
  // The pictures are at the end of the page; the charts are drawn before they are read.
  draw();
  return { start: show };
})();
