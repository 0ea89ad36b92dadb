/* Charts, drawn with Observable Plot as SVG in the page's colours, so that they follow dark mode and print. */
"use strict";

const charts = (() => {
  const colours = { ink: "currentColor", muted: "var(--muted)", line: "var(--line)", accent: "var(--accent)" };
  const good = "var(--good)", bad = "var(--bad)", warn = "var(--warn)";
  const count = d3.format(",");

  /** Format a share; 100 % and 0 % only for exactly 1 and 0. */
  function share(part) {
    if (part === 0 || part === 1) return `${100 * part} %`;
    if (part < 1e-5) return `${d3.format(".1e")(100 * part)} %`;
    return `${Math.min(100 * part, 99.999).toFixed(part > 0.01 ? 3 : 4)} %`;
  }

  /** Format a share on an axis: 10 %, 0.001 %, 1e−6 %. */
  const percent = (part) => (part >= 1e-7 ? `${d3.format("~r")(Number((100 * part).toPrecision(3)))} %` : `${power(100 * part)} %`);

  /** Format a number on a logarithmic axis. */
  function power(value) {
    if (value >= 0.01 && value < 1e6) return d3.format(",~r")(Number(value.toPrecision(3)));
    return d3.format("~e")(value).replace("e+", "e").replace("e-", "e−");
  }

  /** Return the whole powers of ten that enclose positive numbers. */
  function decades(values, least = 1) {
    const positive = values.filter((value) => value > 0);
    const low = Math.floor(Math.log10(d3.min(positive) ?? 1e-6) + 1e-9);
    const high = Math.max(Math.ceil(Math.log10(d3.max(positive) ?? 1) - 1e-9), low + least);
    return [10 ** low, 10 ** high];
  }

  /** Return at most `most` whole powers of ten for the ticks of an axis. */
  function ticks([low, high], most) {
    const first = Math.round(Math.log10(low)), last = Math.round(Math.log10(high));
    const step = Math.ceil((last - first + 1) / most);
    return d3.range(first, last + 1, step).map((exponent) => 10 ** exponent);
  }

  /** Make a table of a chart's numbers, for readers who cannot see or hover over it. */
  function table(header, rows) {
    const details = document.createElement("details");
    const summary = details.appendChild(document.createElement("summary"));
    summary.textContent = "Table";
    const scroll = details.appendChild(document.createElement("div"));
    scroll.className = "scroll";
    scroll.tabIndex = 0;
    const body = scroll.appendChild(document.createElement("table"));
    const append = (row, name, text, first) => {
      const cell = row.appendChild(document.createElement(name));
      cell.textContent = text;
      if (first) cell.className = "text";
    };
    const head = body.createTHead().insertRow();
    header.forEach((text, index) => append(head, "th", text, index === 0));
    const rest = body.createTBody();
    for (const cells of rows) {
      const row = rest.insertRow();
      cells.forEach((text, index) => append(row, "td", text, index === 0));
    }
    return details;
  }

  /** Replace the contents of a figure with a chart and its table. */
  function show(figure, plots, numbers) {
    figure.replaceChildren(...plots, numbers);
  }

  function histogram(figure, { labels, counts, bits }, width) {
    const total = d3.sum(counts) || 1;
    const used = Math.max(5, 1 + d3.max(counts, (value, index) => (value ? index : 0)));
    const rows = labels.slice(0, used).map((label, index) => ({ label, count: counts[index], share: counts[index] / total }));
    const seen = rows.filter((row) => row.count);
    const domain = [Math.min(decades(seen.map((row) => row.share))[0], 0.01) / 2, 1];
    const narrow = width / used < 60;
    const plot = Plot.plot({
      width, height: 240, marginLeft: 64, marginTop: 34, marginBottom: 40,
      ariaLabel: "Share of values by their difference in steps of the output",
      x: { type: "band", domain: rows.map((row) => row.label), label: `difference in steps of ${bits} bits`, labelAnchor: "center", labelArrow: "none", padding: 0.25, tickSize: 0 },
      y: { type: "log", domain, label: "share of values", labelArrow: "none", ticks: ticks([10 ** Math.ceil(Math.log10(domain[0])), 1], 5), tickFormat: percent, grid: true },
      marks: [
        Plot.barY(seen, { x: "label", y1: domain[0], y2: "share", fill: (row) => (row.label === "0" ? good : colours.accent), rx: 2 }),
        Plot.text(seen, { x: "label", y: "share", text: (row) => (narrow ? percent(row.share) : share(row.share)), dy: -9, fill: colours.ink }),
        Plot.ruleY([domain[0]], { stroke: colours.muted }),
      ],
    });
    show(figure, [plot], table([`difference in steps of ${bits} bits`, "values", "share"], rows.map((row) => [row.label, count(row.count), share(row.share)])));
  }

  function stages(figure, given, width) {
    const shares = given.flatMap((stage) => [
      { stage: stage.name, kind: "near ties", count: stage.near_ties, share: stage.near_ties / stage.links },
      { stage: stage.name, kind: "beyond tolerance", count: stage.beyond, share: stage.beyond / stage.links },
    ]);
    const seen = shares.filter((one) => one.count);
    const domain = decades(seen.length ? seen.map((one) => one.share) : [1e-6, 1e-2], 2);
    const plot = Plot.plot({
      width, height: 60 + 26 * given.length, marginLeft: 10 + 7 * d3.max(given, (stage) => stage.name.length), marginRight: 156, marginTop: 40,
      ariaLabel: "Share of links that differ, stage by stage",
      x: { type: "log", domain, label: "share of links that differ", labelAnchor: "center", labelArrow: "none", ticks: ticks(domain, Math.max(3, Math.floor(width / 110))), tickFormat: percent, grid: true, axis: "top", tickSize: 0 },
      y: { type: "point", domain: given.map((stage) => stage.name), label: null, padding: 0.6, tickSize: 0 },
      color: { domain: ["near ties", "beyond tolerance"], range: [colours.accent, bad] },
      symbol: { domain: ["near ties", "beyond tolerance"], range: ["circle", "times"], legend: true },
      marks: [
        Plot.ruleY(given, { y: "name", stroke: colours.line }),
        Plot.dot(seen, { x: "share", y: "stage", symbol: "kind", stroke: "kind", strokeWidth: 2.5, r: 4.5, title: (one) => `${one.stage}: ${count(one.count)} ${one.kind}, ${share(one.share)}` }),
        Plot.text(given, { y: "name", frameAnchor: "right", text: (stage) => `${count(stage.links - stage.common)} of ${count(stage.links)}`, dx: 148, textAnchor: "end", fill: colours.muted }),
      ],
    });
    show(figure, [plot], table(
      ["stage", "links", "identical", "near ties: harmless", "beyond tolerance: a bug"],
      given.map((stage) => [stage.name, count(stage.links), share(stage.common / stage.links), count(stage.near_ties), count(stage.beyond)]),
    ));
  }

  /** Draw the error and the activation range of every block, in the order of execution, on two logarithmic axes. */
  function blocks(figure, given, { start, tolerance, factor, limit }, width) {
    const narrow = width < 640;
    const names = given.map((block) => block.name);
    const margin = Math.min(narrow ? 150 : 260, 14 + 6.4 * d3.max(names, (name) => name.length));
    const letters = Math.floor((margin - 14) / 6.4);
    const shorten = (name) => (name.length > letters ? `…${name.slice(1 - letters)}` : name); // names differ at their end
    const room = narrow ? width : Math.floor((width - margin) / 2);
    const row = given.length > 60 ? 14 : 19;
    const shape = { height: 64 + row * given.length, marginTop: 44, marginBottom: 20, marginRight: 24, style: { fontSize: row < 16 ? "11px" : "12px" } };
    const y = (shown) => ({ type: "point", domain: names, label: null, axis: shown ? "left" : null, padding: 0.5, tickSize: 0, tickFormat: shorten });
    const x = (domain, label, inside) => ({ type: "log", domain, label, labelAnchor: "center", labelArrow: "none", axis: "top", tickSize: 0, ticks: ticks(domain, Math.max(3, Math.floor(inside / 70))), tickFormat: power, grid: true });
    const stripe = Plot.ruleY(given, { y: "name", stroke: colours.line, strokeOpacity: 0.6 });

    const errors = given.filter((block) => block.error > 0), alone = given.filter((block) => block.alone > 0);
    // Where rounding was measured, each block has a limit of its own, and there is no common tolerance.
    const rounded = tolerance ? [] : given.filter((block) => block.expected > 0);
    const domain = decades([...errors.map((block) => block.error), ...alone.map((block) => block.alone), ...(tolerance ? [tolerance] : []), ...rounded.flatMap((block) => [block.expected, factor * block.expected])], 2);
    const marked = given.filter((block) => block.name === start.block);
    const [side, dx] = marked.some((block) => block.error === null || block.error < Math.sqrt(domain[0] * domain[1])) ? ["right", -6] : ["left", 6];
    const curve = Plot.plot({
      ...shape, width: room + (narrow ? 0 : margin), marginLeft: margin,
      ariaLabel: "Error of every block's output, relative to its largest value",
      x: x(domain, "error, relative to the largest value (RMS)", room - (narrow ? margin : 0)),
      y: y(true),
      marks: [
        stripe,
        Plot.ruleY(marked, { y: "name", stroke: bad, strokeWidth: row - 2, strokeOpacity: 0.14 }),
        tolerance ? Plot.ruleX([tolerance], { stroke: bad, strokeDasharray: "4,3" }) : null,
        tolerance ? Plot.text([tolerance], { x: (value) => value, frameAnchor: "bottom", text: () => "tolerance", dy: 12, dx: -4, textAnchor: "end", fill: bad }) : null,
        Plot.ruleY(rounded, { y: "name", x1: "expected", x2: (block) => factor * block.expected, stroke: good, strokeWidth: Math.min(7, row - 6), strokeOpacity: 0.3 }),
        Plot.dot(rounded, { x: (block) => factor * block.expected, y: "name", symbol: tick, r: 6, stroke: bad, strokeWidth: 1.5, title: (block) => `${block.name}: rounding explains ${power(block.expected)}, the limit is ${factor} times that; its own error is ${power(block.times)} times` }),
        Plot.line(errors, { x: "error", y: "name", stroke: colours.muted, strokeWidth: 1.2 }),
        Plot.dot(alone, { x: "alone", y: "name", r: 3, stroke: colours.muted, title: (block) => `${block.name} given the same input: ${power(block.alone)}` }),
        Plot.dot(errors, { x: "error", y: "name", r: 3.5, fill: (block) => (block.over ? bad : colours.accent), title: (block) => `${block.name}: ${decibels(block)} dB, max abs ${power(block.max_abs)}` }),
        Plot.text(given.filter((block) => block.error === 0), { y: "name", frameAnchor: "left", dx: 4, text: () => "equal", fill: good, textAnchor: "start" }),
        Plot.text(given.filter((block) => block.error === null), { y: "name", frameAnchor: "left", dx: 4, text: (block) => `${count(block.nonfinite)} not finite`, fill: bad, textAnchor: "start" }),
        Plot.text(marked, { y: "name", frameAnchor: side, textAnchor: side === "left" ? "start" : "end", dx, text: () => start.label, fill: bad, fontWeight: 600 }),
      ],
    });
    const finite = given.filter((block) => block.largest > 0);
    const range = decades([...finite.map((block) => block.largest), limit, 1]);
    const values = Plot.plot({
      ...shape, width: narrow ? width : room, marginLeft: narrow ? margin : 20,
      ariaLabel: "Largest absolute value of every block's output, against the limit of fp16",
      x: x(range, "largest absolute value", room - (narrow ? margin : 0)),
      y: y(narrow),
      marks: [
        stripe,
        Plot.ruleX([limit], { stroke: bad, strokeDasharray: "4,3" }),
        Plot.text([limit], { x: (value) => value, frameAnchor: "bottom", text: () => `fp16 ends: ${count(limit)}`, dy: 12, dx: -4, textAnchor: "end", fill: bad }),
        Plot.ruleY(finite, { y: "name", x1: range[0], x2: "largest", stroke: (block) => tint(block, limit), strokeWidth: Math.min(7, row - 6), strokeOpacity: 0.75 }),
        Plot.dot(given.filter((block) => block.reference > 0), { x: "reference", y: "name", symbol: tick, r: 6, stroke: colours.ink, strokeWidth: 1.5, title: (block) => `${block.name}, the reference: ${power(block.reference)}` }),
        Plot.dot(finite, { x: "largest", y: "name", r: 3.5, fill: (block) => tint(block, limit), title: (block) => `${block.name} (${block.precision}): ${power(block.largest)}` }),
      ],
    });
    const cell = (value) => (value === null ? "–" : value === 0 ? "0" : power(value));
    const numbers = table(
      ["block", "type", "dB", "error", "error alone", "rounding", "× rounding", "max abs", "largest value", "reference's", "not finite", "over tolerance"],
      given.map((block) => [
        block.name, block.precision, decibels(block), cell(block.error), cell(block.alone), cell(block.expected), cell(block.times), cell(block.max_abs), cell(block.largest), cell(block.reference),
        count(block.nonfinite), block.over ? "yes" : "no",
      ]),
    );
    const pair = document.createElement("div");
    pair.className = "pair";
    pair.append(curve, values);
    show(figure, [legend(alone.length > 0, rounded.length > 0 ? factor : 0), pair], numbers);
  }

  const decibels = (block) => (block.error === 0 ? "equal" : block.psnr === null ? "NaN" : block.psnr.toFixed(1));

  /** Make the legend of the blocks' chart. */
  function legend(withAlone, factor) {
    const line = document.createElement("p");
    line.className = "marks";
    const add = (name, text) => {
      const key = line.appendChild(document.createElement("span"));
      key.className = name;
      key.textContent = text;
    };
    add("dot", "output as run");
    add("dot over", "over tolerance");
    if (withAlone) add("ring", "alone: given the same input");
    if (factor) add("band", `from what rounding explains, alone, to ${factor} times that, the limit`);
    add("tick", "the reference's largest value");
    return line;
  }

  /** Symbol: a vertical line. */
  const tick = {
    draw(context, size) {
      const half = Math.sqrt(size / Math.PI);
      context.moveTo(0, -half);
      context.lineTo(0, half);
    },
  };

  /** Red where fp16 overflows, amber within a factor of four of its limit. */
  function tint(block, limit) {
    return block.largest >= limit ? bad : block.largest > limit / 4 ? warn : colours.accent;
  }

  return { histogram, stages, blocks, power, share };
})();
